// Command deviceplugin is a device plugin as tests and users want one who have no devices: it registers, again whenever the
// kubelet starts, and its devices are whatever it is told. Lines on its standard input change it: "health ID Unhealthy",
// "fail METHOD", "works METHOD". It prints the calls that it gets.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"minikubelet/e2e/devicestest"
)

func main() {
	dir := flag.String("dir", pluginapi.DevicePluginPath, "the directory of the kubelet's socket, for one of its own; or plugins_registry, with -watched")
	watched := flag.Bool("watched", false, "have the kubelet find the socket, instead of registering it")
	once := flag.Bool("once", false, "do not register again when the kubelet starts again")
	resource := flag.String("resource", "example.com/device", "the name of the resource")
	devices := flag.String("devices", "dev-1,dev-2", "the names of the devices")
	node := flag.String("node", "/dev/zero", "what stands for every device; containers have it as /dev/NAME")
	share := flag.String("share", "", "a file or directory that containers with a device have at the same path, read-only")
	cdi := flag.String("cdi", "", "a kind of CDI devices, as example.com/device, of which containers get those named as theirs")
	prepare := flag.Bool("prepare", false, "hear of each container before it starts")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	p := &devicestest.Plugin{
		Resource: *resource, Options: pluginapi.DevicePluginOptions{PreStartRequired: *prepare},
		Respond: func(ids []string) *pluginapi.ContainerAllocateResponse { return respond(ids, *node, *share, *cdi) },
		Heard:   func(call string) { fmt.Println(call) },
	}
	for id := range strings.SplitSeq(*devices, ",") {
		p.Set(&pluginapi.Device{ID: id, Health: pluginapi.Healthy})
	}
	go listen(p)
	if err := run(ctx, p, *dir, *watched, *once); err != nil && !errors.Is(err, context.Canceled) {
		log.Fatal(err)
	}
}

// respond is what a container needs that gets devices.
func respond(ids []string, node, share, cdi string) *pluginapi.ContainerAllocateResponse {
	r := &pluginapi.ContainerAllocateResponse{
		Envs: map[string]string{"DEVICES": strings.Join(ids, ",")}, Annotations: map[string]string{"example.com/devices": strings.Join(ids, ",")},
	}
	for _, id := range ids {
		r.Devices = append(r.Devices, &pluginapi.DeviceSpec{HostPath: node, ContainerPath: "/dev/" + id, Permissions: "r"})
		if cdi != "" {
			r.CdiDevices = append(r.CdiDevices, &pluginapi.CDIDevice{Name: cdi + "=" + id})
		}
	}
	if share != "" {
		r.Mounts = append(r.Mounts, &pluginapi.Mount{HostPath: share, ContainerPath: share, ReadOnly: true})
	}
	return r
}

// listen does what it is told on standard input.
func listen(p *devicestest.Plugin) {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		switch words := strings.Fields(lines.Text()); {
		case len(words) == 3 && words[0] == "health":
			p.Set(&pluginapi.Device{ID: words[1], Health: words[2]})
		case len(words) == 2 && words[0] == "fail":
			p.Fail(words[1], errors.New(words[1]+" fails as it was told"))
		case len(words) == 2 && words[0] == "works":
			p.Fail(words[1], nil)
		default:
			log.Printf("not understood: %q", lines.Text())
		}
		fmt.Println("told:", lines.Text())
	}
}

// run serves and registers, and does so again when a kubelet starts, which removes all sockets.
func run(ctx context.Context, p *devicestest.Plugin, dir string, watched, once bool) error {
	changes, err := fsnotify.NewWatcher()
	if err != nil {
		return err
	}
	defer changes.Close()
	if err := changes.Add(dir); err != nil {
		return err
	}
	endpoint := strings.ReplaceAll(p.Resource, "/", "_") + ".sock"
	for {
		_ = os.Remove(filepath.Join(dir, endpoint)) // of one that was killed
		stop, err := p.Serve(filepath.Join(dir, endpoint))
		if err != nil {
			return err
		}
		if !watched {
			soon, cancel := context.WithTimeout(ctx, 5*time.Second)
			if err := p.Register(soon, dir, endpoint); err != nil {
				log.Printf("register: %v", err)
			}
			cancel()
		}
		for again := false; !again; {
			select {
			case e := <-changes.Events:
				again = !watched && !once && e.Has(fsnotify.Create) && filepath.Base(e.Name) == filepath.Base(pluginapi.KubeletSocket)
			case err := <-changes.Errors:
				return err
			case <-ctx.Done():
				stop()
				return nil
			}
		}
		stop()
	}
}
