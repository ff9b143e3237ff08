package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"k8s.io/klog/v2"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"
	"k8s.io/utils/clock"
)

const (
	// nodeFileLifetime is how long a node's docker config counts before it is read again.
	nodeFileLifetime = 5 * time.Minute
	maxNodeFile      = 10 << 20
	olderConfig      = ".dockercfg" // the name of the older sort of file
	// nodeFilePatience is how long a pull waits for the files. They may be on a disk that does not answer.
	nodeFilePatience = 10 * time.Second
)

// NodeCredentials are the node's own: those of a docker config file, which every pod of the node may use. Safe for concurrent use.
//
// Upstream: pkg/credentialprovider/provider.go CachingDockerConfigProvider
type NodeCredentials struct {
	clock clock.PassiveClock
	files []string // the first that is valid counts

	mu      sync.Mutex
	keys    keyring
	expires time.Time
	reading chan struct{} // closed when the files have been read that are being read; nil while none are
}

// NewNodeCredentials looks for config.json in the kubelet's root directory, its working directory, .docker below its home directory
// and /.docker, then for .dockercfg in the root directory, the working directory, the home directory and /. Only the first that is
// valid counts. It reads nothing yet.
func NewNodeCredentials(rootDir string, clock clock.PassiveClock) (*NodeCredentials, error) {
	work, err := os.Getwd()
	if err != nil {
		return nil, fmt.Errorf("look for the node's registry credentials: %w", err)
	}
	home, err := os.UserHomeDir()
	if err != nil {
		home = work // as upstream, where the home directory is then the empty path
	}
	var files []string
	for _, dir := range []string{rootDir, work, filepath.Join(home, ".docker"), "/.docker"} {
		files = append(files, filepath.Join(dir, "config.json"))
	}
	for _, dir := range []string{rootDir, work, home, "/"} {
		files = append(files, filepath.Join(dir, olderConfig))
	}
	return &NodeCredentials{clock: clock, files: files}, nil
}

// Lookup returns the node's credentials for a repository without tag, those for the most specific location first. A file that
// cannot be read is logged by its path, and the next one counts. While files cannot be read to their end, those that were read last
// count.
func (n *NodeCredentials) Lookup(ctx context.Context, repository string) []Credential {
	n.mu.Lock()
	if now := n.clock.Now(); n.reading == nil && !now.Before(n.expires) {
		n.reading = make(chan struct{})
		go n.renew(context.WithoutCancel(ctx), now)
	}
	reading := n.reading
	n.mu.Unlock()
	if reading != nil {
		limited, cancel := context.WithTimeout(ctx, nodeFilePatience)
		defer cancel()
		select {
		case <-reading:
		case <-limited.Done():
			klog.FromContext(ctx).Error(limited.Err(), "The files with the node's registry credentials cannot be read in time, those that were read last count")
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.keys.lookup(repository)
}

// renew reads the files for all that wait for them.
func (n *NodeCredentials) renew(ctx context.Context, now time.Time) {
	keys := n.read(ctx)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.keys, n.expires = keys, now.Add(nodeFileLifetime)
	close(n.reading)
	n.reading = nil
}

// read returns what the first valid file has. One file may be in the list twice, and is then tried once.
func (n *NodeCredentials) read(ctx context.Context) keyring {
	logger := klog.FromContext(ctx)
	for i, path := range n.files {
		if slices.Contains(n.files[:i], path) {
			continue
		}
		keys, err := readNodeFile(ctx, path)
		switch {
		case err == nil:
			logger.V(4).Info("The node's registry credentials are in a file", "path", path)
			return keys
		case !errors.Is(err, fs.ErrNotExist):
			logger.Error(err, "Ignoring a file with the node's registry credentials", "path", path)
		}
	}
	return nil
}

// readNodeFile returns what the file has. As upstream, a login that cannot be read makes the whole file invalid, a location that
// names no registry only its own entry.
func readNodeFile(ctx context.Context, path string) (keyring, error) {
	data, err := readRegular(path)
	if err != nil {
		return nil, err
	}
	if len(data) == 0 {
		return nil, errNoConfig
	}
	parse := parseConfigJSON
	if filepath.Base(path) == olderConfig {
		parse = parseDockercfg
	}
	logins, err := parse(data)
	if err != nil {
		return nil, err
	}
	keys := keyring{}
	locations, contents := keys.add(logins, func(login) kubeletconfig.ImagePullCredentials {
		return kubeletconfig.ImagePullCredentials{NodePodsAccessible: true}
	})
	if contents == nil && locations != nil {
		klog.FromContext(ctx).Error(locations, "Ignoring entries of the node's registry credentials", "path", path)
	}
	return keys, contents
}

// readRegular refuses pipes, whose reading never ends, and what does not fit into memory.
func readRegular(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("is no regular file")
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxNodeFile+1))
	if err == nil && len(data) > maxNodeFile {
		err = fmt.Errorf("has more than %d bytes", maxNodeFile)
	}
	return data, err
}
