// SPDX-License-Identifier: Apache-2.0

package podcontrol

import "sync"

// SlowStart calls f(0) to f(n-1) in parallel batches of 1, 2, 4, ... and stops after the first batch in
// which a call failed, so that a full quota is not hit n times. It returns how many calls succeeded.
func SlowStart(n int, f func(i int) error) (int, error) {
	done := 0
	for batch := 1; done < n; batch *= 2 {
		batch = min(batch, n-done)
		errs := make([]error, batch)
		first := done
		var wg sync.WaitGroup
		for i := range batch {
			wg.Go(func() { errs[i] = f(first + i) })
		}
		wg.Wait()
		var firstErr error
		for _, err := range errs {
			if err == nil {
				done++
			} else if firstErr == nil {
				firstErr = err
			}
		}
		if firstErr != nil {
			return done, firstErr
		}
	}
	return done, nil
}

// ForEach calls f for all items in parallel and returns the error of each, in their order.
func ForEach[T any](items []T, f func(T) error) []error {
	errs := make([]error, len(items))
	var wg sync.WaitGroup
	for i, item := range items {
		wg.Go(func() { errs[i] = f(item) })
	}
	wg.Wait()
	return errs
}
