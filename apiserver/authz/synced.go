// SPDX-License-Identifier: Apache-2.0

package authz

import (
	"context"
	"errors"
	"time"

	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/tools/cache"
)

// syncTimeout is how long a request waits for the informers of a server that has just started.
const syncTimeout = 10 * time.Second

// afterSync refuses nobody for what its informers do not know yet: a node that calls a server just as it starts would
// take that for the answer, and give up.
type afterSync struct {
	answerer
	informers []cache.SharedIndexInformer
}

// Authorize implements authorizer.Authorizer. What is allowed by what is known already does not wait.
func (s afterSync) Authorize(ctx context.Context, attrs authorizer.Attributes) (authorizer.Decision, string, error) {
	for _, informer := range s.informers {
		if informer.HasSynced() {
			continue
		}
		if decision, reason, err := s.answerer.Authorize(ctx, attrs); decision == authorizer.DecisionAllow {
			return decision, reason, err
		}
		if err := s.wait(ctx); err != nil {
			return authorizer.DecisionNoOpinion, "", err
		}
	}
	return s.answerer.Authorize(ctx, attrs)
}

func (s afterSync) wait(ctx context.Context) error {
	timeout := time.NewTimer(syncTimeout)
	defer timeout.Stop()
	for _, informer := range s.informers {
		select {
		case <-informer.HasSyncedChecker().Done():
		case <-ctx.Done():
			return ctx.Err()
		case <-timeout.C:
			return errors.New("the server has not read yet who may do what (try again; if this lasts, look at its log)")
		}
	}
	return nil
}

// ConditionsAwareAuthorize implements authorizer.Authorizer.
func (s afterSync) ConditionsAwareAuthorize(ctx context.Context, attrs authorizer.Attributes) authorizer.ConditionsAwareDecision {
	return authorizer.ConditionsAwareDecisionFromParts(s.Authorize(ctx, attrs))
}
