package images

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"k8s.io/klog/v2"

	"minikubelet/runtime/criserver/bounded"
)

const (
	maxArchives = 10_000 // in the archive directory
	importsFile = "imports.json"
)

// imported is what came of an archive, so that the next Open need not read it again.
type imported struct {
	Stamp  string   `json:"stamp"` // size and time
	Images []string `json:"images"`
}

// importArchives imports what is new in the archive directory. A broken archive is a log line, not a failure: only
// pods that need its images fail.
func (s *Store) importArchives(ctx context.Context) error {
	if s.options.ArchiveDir == "" {
		return nil
	}
	entries, err := os.ReadDir(s.options.ArchiveDir)
	if err != nil {
		return err
	}
	if len(entries) > maxArchives {
		return fmt.Errorf("more than %d files", maxArchives)
	}
	before := s.readImports()
	after := map[string]imported{}
	for _, entry := range entries {
		path := filepath.Join(s.options.ArchiveDir, entry.Name())
		logger := klog.LoggerWithValues(klog.FromContext(ctx), "archive", path)
		stamp, ok := archiveStamp(path)
		if !ok {
			logger.V(2).Info("Not an image archive")
			continue
		}
		if old := before[entry.Name()]; old.Stamp == stamp && s.hasAll(old.Images) {
			after[entry.Name()] = old
			continue
		}
		ids, err := s.importArchive(klog.NewContext(ctx, logger), path)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			logger.Error(err, "Could not import all of an image archive", "imported", len(ids))
			continue
		}
		after[entry.Name()] = imported{Stamp: stamp, Images: ids}
	}
	content, err := json.Marshal(after)
	if err != nil {
		return err
	}
	if err := writeFile(s.path(importsFile), content, false); err != nil {
		klog.FromContext(ctx).Error(err, "Could not write down which archives were imported; the next start reads them again")
	}
	return nil
}

// readImports may forget: archives are then only read once more.
func (s *Store) readImports() map[string]imported {
	known := map[string]imported{}
	content, err := bounded.ReadFile(s.path(importsFile), 64<<20)
	if err != nil || json.Unmarshal(content, &known) != nil {
		return nil
	}
	return known
}

func (s *Store) hasAll(ids []string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range ids {
		if s.images[id] == nil {
			return false
		}
	}
	return len(ids) > 0
}

// archiveStamp tells whether a path may be an archive, and something that changes with it.
func archiveStamp(path string) (string, bool) {
	info, err := os.Stat(path)
	if err == nil && info.IsDir() {
		info, err = os.Stat(filepath.Join(path, "index.json"))
	} else if archiveBase(path) == "" {
		return "", false
	}
	if err != nil || !info.Mode().IsRegular() {
		return "", false
	}
	return fmt.Sprintf("%d %d", info.Size(), info.ModTime().UnixNano()), true
}

// archiveBase is the name of an archive without what says its format, or "".
func archiveBase(path string) string {
	name := filepath.Base(path)
	for _, suffix := range []string{".tar", ".tar.gz", ".tgz", ".tar.zst"} {
		if base, ok := strings.CutSuffix(name, suffix); ok {
			return base
		}
	}
	return ""
}
