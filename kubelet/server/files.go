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
	if on := s.settings.EnableSystemLogQuery; on != nil && *on && isJournalQuery(r.URL.Query()) {
		return s.queryLogs(w, r) // part: queries of the journal, journal.go
	}
	return s.showLog(w, r, strings.TrimPrefix(r.URL.Path, "/logs/"))
}

// showLog answers with a file or directory below /var/log.
func (s *Server) showLog(w http.ResponseWriter, r *http.Request, name string) error {
	file, info, err := s.openLog(name)
	if err != nil {
		return err
	}
	defer file.Close()
	if info.IsDir() {
		return listDirectory(w, r, file)
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8") // never a page: a container may have written it
	http.ServeContent(w, r, "", info.ModTime(), io.NewSectionReader(file, 0, info.Size()))
	return nil
}

// openLog opens a regular file or a directory below /var/log.
func (s *Server) openLog(name string) (*os.File, fs.FileInfo, error) {
	root, err := os.OpenRoot(s.root)
	if err != nil {
		return nil, nil, notFound("%v", err)
	}
	defer root.Close()
	if name = strings.Trim(path.Clean("/"+name), "/"); name == "" {
		name = "."
	}
	target, err := linkTarget(root, s.root, name)
	if err != nil {
		return nil, nil, logError(name, err)
	}
	file, err := root.OpenFile(target, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, logError(name, err)
	}
	info, err := file.Stat()
	if err == nil && !info.IsDir() && !info.Mode().IsRegular() {
		err = &httpError{http.StatusForbidden, name + ": not a regular file"}
	}
	if err != nil {
		return nil, nil, errors.Join(err, file.Close())
	}
	return file, info, nil
}

// maxLinks is how many symbolic links a path may lead through, as in the kernel.
const maxLinks = 40

// linkTarget is where the links of a path below base lead to. root follows those that are relative, but none that is
// absolute, as /var/log/containers is full of; so these are replaced by where they lead to below base. That nothing
// outside is opened does not depend on this: root opens what comes out, and anything may have changed by then.
func linkTarget(root *os.Root, base, name string) (string, error) {
	done, left := ".", strings.Split(name, "/")
	for links := 0; len(left) > 0; {
		next := path.Join(done, left[0])
		left = left[1:]
		target, err := root.Readlink(next)
		if err != nil { // no link, or nothing at all
			done = next
			continue
		}
		if links++; links > maxLinks {
			return "", unix.ELOOP
		}
		if path.IsAbs(target) {
			below, inside := strings.CutPrefix(path.Clean(target), base+"/")
			if !inside {
				return "", fs.ErrPermission
			}
			done, target = ".", below
		}
		left = append(strings.Split(path.Clean(target), "/"), left...)
	}
	return done, nil
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
