// Times etcd's own recipe for locks, for the benchmark beside it: one line of standard input asks for one measurement,
// and is answered by one line of nanoseconds.
//
//	lock 20        20 times lock and unlock, in a session of their own
//	handover 20    20 times from just before an unlock until the other client has the lock
package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

const ttlSeconds = 30

func main() {
	if len(os.Args) != 2 {
		fail(fmt.Errorf("usage: %s HOST:PORT", os.Args[0]))
	}
	clients := [2]*clientv3.Client{connect(os.Args[1]), connect(os.Args[1])}
	questions := bufio.NewScanner(os.Stdin)
	for questions.Scan() {
		var what string
		var times int
		if _, err := fmt.Sscan(questions.Text(), &what, &times); err != nil {
			fail(err)
		}
		var took []time.Duration
		switch what {
		case "lock":
			took = lock(clients[0], times)
		case "handover":
			took = handOver(clients, times)
		default:
			fail(fmt.Errorf("no such measurement: %s", what))
		}
		for _, one := range took {
			fmt.Print(one.Nanoseconds(), " ")
		}
		fmt.Println()
	}
}

func connect(endpoint string) *clientv3.Client {
	return must(clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, DialTimeout: 5 * time.Second}))
}

func lock(client *clientv3.Client, times int) (took []time.Duration) {
	ctx := context.Background()
	session := must(concurrency.NewSession(client, concurrency.WithTTL(ttlSeconds)))
	defer session.Close()
	mutex := concurrency.NewMutex(session, "/recipe/door")
	for range times {
		begun := time.Now()
		check(mutex.Lock(ctx))
		check(mutex.Unlock(ctx))
		took = append(took, time.Since(begun))
	}
	return took
}

func handOver(clients [2]*clientv3.Client, times int) (took []time.Duration) {
	ctx := context.Background()
	var mutexes [2]*concurrency.Mutex
	for i, client := range clients {
		session := must(concurrency.NewSession(client, concurrency.WithTTL(ttlSeconds)))
		defer session.Close()
		mutexes[i] = concurrency.NewMutex(session, "/recipe/door")
	}
	check(mutexes[0].Lock(ctx))
	for round := range times {
		holder, waiter := mutexes[round%2], mutexes[(round+1)%2]
		granted := make(chan time.Time)
		go func() {
			check(waiter.Lock(ctx))
			granted <- time.Now()
		}()
		for must(clients[0].Get(ctx, "/recipe/door", clientv3.WithPrefix(), clientv3.WithCountOnly())).Count < 2 {
			time.Sleep(time.Millisecond)
		}
		// As long as the benchmark pauses between two of its own.
		time.Sleep(time.Duration(5000+round*7919%10000) * time.Microsecond)
		begun := time.Now()
		check(holder.Unlock(ctx))
		took = append(took, (<-granted).Sub(begun))
	}
	check(mutexes[times%2].Unlock(ctx))
	return took
}

func must[T any](value T, err error) T {
	check(err)
	return value
}

func check(err error) {
	if err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
