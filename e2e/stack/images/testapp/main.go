// Command testapp is the application in the pods of the end-to-end tests: an
// HTTP server whose health, output, memory and end the tests control.
//
//	GET  /            the pod's host name
//	GET  /healthz     200, or 500 after POST /health?ok=false
//	POST /health      ?ok=true|false
//	POST /exit        ?code=N ends the process
//	POST /log         the body goes to stdout (?stream=stderr: to stderr)
//	POST /alloc       ?mib=N holds that much more memory
//	GET  /env         the environment, one variable a line
//	GET  /file        ?path=P, the content of a file
//	GET  /get         ?url=U, what is answered there
package main

import (
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

func main() {
	address := flag.String("listen", ":8080", "address to serve on")
	startup := flag.Duration("startup", 0, "delay before serving")
	linger := flag.Duration("linger", 0, "how long to go on after SIGTERM")
	flag.Parse()

	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM)
	go func() {
		<-signals
		fmt.Println("SIGTERM")
		time.Sleep(*linger)
		fmt.Println("bye")
		os.Exit(0)
	}()
	time.Sleep(*startup)
	fmt.Println("serving", *address, strings.Join(flag.Args(), " "))
	server := &http.Server{Addr: *address, Handler: handler(), ReadHeaderTimeout: 10 * time.Second}
	fmt.Fprintln(os.Stderr, server.ListenAndServe())
	os.Exit(1)
}

func handler() http.Handler {
	mux := http.NewServeMux()
	var sick atomic.Bool
	var held [][]byte
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		name, _ := os.Hostname()
		fmt.Fprintln(w, name)
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if sick.Load() {
			http.Error(w, "sick", http.StatusInternalServerError)
		}
	})
	mux.HandleFunc("POST /health", func(_ http.ResponseWriter, r *http.Request) {
		sick.Store(r.FormValue("ok") == "false")
	})
	mux.HandleFunc("POST /exit", func(_ http.ResponseWriter, r *http.Request) {
		code, _ := strconv.Atoi(r.FormValue("code"))
		os.Exit(code)
	})
	mux.HandleFunc("POST /log", func(_ http.ResponseWriter, r *http.Request) {
		out := os.Stdout
		if r.URL.Query().Get("stream") == "stderr" {
			out = os.Stderr
		}
		_, _ = io.Copy(out, r.Body)
	})
	mux.HandleFunc("POST /alloc", func(_ http.ResponseWriter, r *http.Request) {
		mib, _ := strconv.Atoi(r.FormValue("mib"))
		block := make([]byte, mib<<20)
		for i := 0; i < len(block); i += 4096 {
			block[i] = 1 // touch every page, or the kernel gives none
		}
		held = append(held, block)
	})
	mux.HandleFunc("GET /env", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, strings.Join(os.Environ(), "\n"))
	})
	mux.HandleFunc("GET /file", func(w http.ResponseWriter, r *http.Request) {
		data, err := os.ReadFile(r.FormValue("path"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusNotFound)
			return
		}
		_, _ = w.Write(data)
	})
	mux.HandleFunc("GET /get", func(w http.ResponseWriter, r *http.Request) {
		client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
		response, err := client.Get(r.FormValue("url"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer response.Body.Close()
		w.WriteHeader(response.StatusCode)
		_, _ = io.Copy(w, response.Body)
	})
	return mux
}
