// Command hello is the program in the example image: a web server that says which pod it is. Change it, and the next
// `make run` has the change.
package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := serve(ctx, ":8080"); err != nil {
		fmt.Fprintln(os.Stderr, "hello:", err)
		os.Exit(1)
	}
}

// serve answers until ctx ends, as it does when the pod is to end.
func serve(ctx context.Context, address string) error {
	server := &http.Server{Addr: address, Handler: http.HandlerFunc(greet), ReadHeaderTimeout: 10 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- server.ListenAndServe() }()
	fmt.Println("serving", address)
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	fmt.Println("ending")
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	return server.Shutdown(limited)
}

// greet says hello; the kubelet's probes would fill the log, so they are left out of it.
func greet(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/healthz" {
		return
	}
	fmt.Println(r.Method, r.URL.Path, "from", r.RemoteAddr)
	fmt.Fprintf(w, "hello from %s at %s on %s\n", os.Getenv("POD_NAME"), os.Getenv("POD_IP"), os.Getenv("NODE_NAME"))
}
