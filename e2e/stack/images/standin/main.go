// Command standin is in the images that stand in for critest's: of those it looks only at a few
// things.
//
//	standin web :80 TITLE   serves a page; what critest greps of nginx is in TITLE and in files
//	standin euid            prints its effective user
//	pgrep NAME              prints the PIDs of that name: not every busybox has it
//	ipcs                    prints the IDs of shared memory segments
//	pause                   waits
package main

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

func main() {
	switch filepath.Base(os.Args[0]) {
	case "pause":
		select {}
	case "pgrep":
		pgrep(os.Args[len(os.Args)-1])
		return
	case "ipcs":
		ipcs()
		return
	}
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

func pgrep(name string) {
	files, _ := filepath.Glob("/proc/[0-9]*/comm")
	for _, file := range files {
		if comm, err := os.ReadFile(file); err == nil && strings.TrimSpace(string(comm)) == name {
			fmt.Println(filepath.Base(filepath.Dir(file)))
		}
	}
}

func ipcs() {
	segments, err := os.ReadFile("/proc/sysvipc/shm")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for line := range strings.Lines(string(segments)) {
		if fields := strings.Fields(line); len(fields) > 3 {
			fmt.Println(fields[1], fields[3])
		}
	}
}
