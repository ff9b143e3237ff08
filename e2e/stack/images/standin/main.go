// Command standin is in the images that stand in for critest's: of those it looks only at a few
// things.
//
//	standin web :80 TITLE   serves a page; what critest greps of nginx is in TITLE and in files
//	standin euid            prints its effective user
package main

import (
	"fmt"
	"net/http"
	"os"
	"strconv"
	"time"
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == "euid" {
		fmt.Printf("Effective uid: %d\n", os.Geteuid())
		return
	}
	if len(os.Args) < 3 || os.Args[1] != "web" {
		fmt.Fprintln(os.Stderr, "usage: standin web ADDRESS [TITLE] | standin euid")
		os.Exit(2)
	}
	// A read-only root is no reason not to serve.
	_ = os.WriteFile("/var/run/nginx.pid", []byte(strconv.Itoa(os.Getpid())), 0o644)
	http.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "Welcome to nginx!") })
	fmt.Println("httpd: serving", os.Args[2])
	server := &http.Server{Addr: os.Args[2], ReadHeaderTimeout: 10 * time.Second}
	fmt.Fprintln(os.Stderr, server.ListenAndServe())
	os.Exit(1)
}
