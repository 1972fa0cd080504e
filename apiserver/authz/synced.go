// SPDX-License-Identifier: Apache-2.0

package authz

import (
	"context"
	"errors"
	"slices"
	"time"

	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/tools/cache"
)

// syncTimeout is how long a request waits for the informers of a server that has just started.
const syncTimeout = 10 * time.Second

var errNotSynced = errors.New("the server has not read yet who may do what (try again; if this lasts, look at its log)")

// afterSync refuses nobody for what its informers do not know yet: a node that calls a server just as it starts would
// take that for the answer, and give up.
type afterSync struct {
	answerer
	synced []cache.DoneChecker
}

func newAfterSync(a answerer, informers ...cache.SharedIndexInformer) afterSync {
	s := afterSync{answerer: a}
	for _, informer := range informers {
		s.synced = append(s.synced, informer.HasSyncedChecker())
	}
	return s
}

// Authorize implements authorizer.Authorizer. What is allowed by what is known already does not wait.
func (s afterSync) Authorize(ctx context.Context, attrs authorizer.Attributes) (authorizer.Decision, string, error) {
	if slices.ContainsFunc(s.synced, func(c cache.DoneChecker) bool { return !cache.IsDone(c) }) {
		if decision, reason, err := s.answerer.Authorize(ctx, attrs); decision == authorizer.DecisionAllow {
			return decision, reason, err
		}
		waiting, cancel := context.WithTimeout(ctx, syncTimeout)
		defer cancel()
		if !cache.WaitFor(waiting, "", s.synced...) {
			return authorizer.DecisionNoOpinion, "", errNotSynced
		}
	}
	return s.answerer.Authorize(ctx, attrs)
}

// ConditionsAwareAuthorize implements authorizer.Authorizer.
func (s afterSync) ConditionsAwareAuthorize(ctx context.Context, attrs authorizer.Attributes) authorizer.ConditionsAwareDecision {
	return authorizer.ConditionsAwareDecisionFromParts(s.Authorize(ctx, attrs))
}
