package sharding

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/podworks/podworks"
)

// A PerPod builds one client for each pod, the first time it is asked for: a
// Redis or memcached client, a *gorm.DB. So no client library is in this
// package's API.
type PerPod[T any] struct {
	build func(podworks.PodID) (T, error)

	mu   sync.Mutex // guards pods
	pods map[podworks.PodID]*built[T]
}

type built[T any] struct {
	once sync.Once
	v    T
	err  error
}

// NewPerPod returns a PerPod that builds its clients with build. A build that
// fails is tried again the next time.
func NewPerPod[T any](build func(podworks.PodID) (T, error)) *PerPod[T] {
	return &PerPod[T]{build: build, pods: map[podworks.PodID]*built[T]{}}
}

// Get returns the client of the pod of ctx's scope.
func (p *PerPod[T]) Get(ctx context.Context) (T, error) {
	var zero T
	s := FromContext(ctx)
	if s == nil {
		return zero, &Error{Err: ErrNoScope, Used: usedAt()}
	}
	pod := s.follow().route.Pod
	if _, err := s.check(); err != nil {
		return zero, err
	}
	p.mu.Lock()
	b, ok := p.pods[pod]
	if !ok {
		b = &built[T]{err: errors.New("its function panicked")}
		p.pods[pod] = b
	}
	p.mu.Unlock()
	defer func() { // also when build panics: b.err is set before
		if b.err != nil {
			p.mu.Lock()
			if p.pods[pod] == b {
				delete(p.pods, pod)
			}
			p.mu.Unlock()
		}
	}()
	// Built outside of the lock: a pod that hangs must not stop the others.
	b.once.Do(func() { b.v, b.err = p.build(pod) })
	if b.err != nil {
		return zero, fmt.Errorf("sharding: build the client of pod %d: %w", pod, b.err)
	}
	return b.v, nil
}
