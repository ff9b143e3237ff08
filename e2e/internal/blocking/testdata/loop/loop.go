// Package loop does what a loop must not do, and what it may.
package loop

import (
	"os"
	"sync"
)

type loop struct {
	mu, other, unused sync.Mutex
	news              chan int
	hook, unknown     func()
	parts             part
}

type part interface{ act() }

func (l *loop) turn() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.offer()
	go l.send()
	func() { l.other.Lock(); l.other.Unlock() }()
	l.hook()
	l.unknown()
	l.parts.act()
	each(l.sync)
}

// offer does not wait.
func (l *loop) offer() {
	select {
	case l.news <- 1:
	default:
	}
}

func (l *loop) send() { l.news <- 1 }

func (l *loop) sync() { _ = os.Remove("") }

func each(do func()) {}

func hooked() { <-make(chan int) }

func (l *loop) sendsUnderLock() {
	l.mu.Lock()
	l.send()
	l.mu.Unlock()
	l.send()
}

func (l *loop) sendsAfterEarlyReturn(early bool) {
	l.other.Lock()
	if early {
		l.other.Unlock()
		l.send()
		return
	}
	select {
	case <-l.news:
	}
	l.other.Unlock()
}

func (l *loop) sendsUnderLockOfNoConcern() {
	l.unused.Lock()
	defer l.unused.Unlock()
	l.send()
}

// waits lets go of its caller's lock.
func (l *loop) waits() {
	l.mu.Unlock()
	<-l.news
	l.mu.Lock()
}

func (l *loop) callsWaits() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waits()
}
