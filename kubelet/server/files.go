package server

import (
	"errors"
	"fmt"
	"html"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// systemLogs is the directory that /logs/ shows.
const systemLogs = "/var/log"

// maxEntries is how many names of a directory are shown.
const maxEntries = 10000

// getLogs shows the node's own logs: directories and regular files below /var/log, and nothing that a link there
// leads to outside.
//
// Upstream: pkg/kubelet/kubelet.go ServeLogs
func (s *Server) getLogs(w http.ResponseWriter, r *http.Request) error {
	root, err := os.OpenRoot(s.root)
	if err != nil {
		return notFound("%v", err)
	}
	defer root.Close()
	name := strings.Trim(path.Clean("/"+strings.TrimPrefix(r.URL.Path, "/logs/")), "/")
	if name == "" {
		name = "."
	}
	file, err := root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return logError(name, err)
	}
	defer file.Close()
	info, err := file.Stat()
	switch {
	case err != nil:
		return err
	case info.IsDir():
		return listDirectory(w, r, file)
	case !info.Mode().IsRegular():
		return &httpError{http.StatusForbidden, name + ": not a regular file"}
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8") // never a page: what is in it may be anybody's
	http.ServeContent(w, r, "", info.ModTime(), io.NewSectionReader(file, 0, info.Size()))
	return nil
}

// logError tells a missing file from one that may not be shown.
func logError(name string, err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return notFound("%s: not found", name)
	}
	return &httpError{http.StatusForbidden, name + ": may not be shown"}
}

// listDirectory answers with links to what is in a directory.
func listDirectory(w http.ResponseWriter, r *http.Request, dir *os.File) error {
	if !strings.HasSuffix(r.URL.Path, "/") {
		http.Redirect(w, r, path.Base(r.URL.Path)+"/", http.StatusMovedPermanently)
		return nil
	}
	entries, err := dir.ReadDir(maxEntries)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return writeListing(w, entries)
}

// writeListing writes the page that http.FileServer would.
func writeListing(w http.ResponseWriter, entries []os.DirEntry) error {
	slices.SortFunc(entries, func(a, b os.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	var page strings.Builder
	page.WriteString("<!doctype html>\n<meta name=\"viewport\" content=\"width=device-width\">\n<pre>\n")
	for _, e := range entries {
		name := e.Name()
		if e.IsDir() {
			name += "/"
		}
		link := url.URL{Path: name}
		fmt.Fprintf(&page, "<a href=\"%s\">%s</a>\n", html.EscapeString(link.String()), html.EscapeString(name))
	}
	page.WriteString("</pre>\n")
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, err := io.WriteString(w, page.String())
	return err
}
