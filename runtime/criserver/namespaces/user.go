package namespaces

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// IDs are which of the machine's user and group IDs a user namespace's are.
type IDs struct{ UIDs, GIDs []syscall.SysProcIDMap }

// Root are the machine's IDs of the namespace's root.
func (ids *IDs) Root() (uid, gid int, err error) { return ids.OnMachine(0, 0) }

// OnMachine are the machine's IDs of a user and a group of the namespace.
func (ids *IDs) OnMachine(uid, gid int) (int, int, error) {
	hostUID, uidErr := onMachine(ids.UIDs, uid)
	hostGID, gidErr := onMachine(ids.GIDs, gid)
	return hostUID, hostGID, errors.Join(uidErr, gidErr)
}

func onMachine(maps []syscall.SysProcIDMap, id int) (int, error) {
	for _, m := range maps {
		if id >= m.ContainerID && id < m.ContainerID+m.Size {
			return m.HostID + id - m.ContainerID, nil
		}
	}
	return 0, fmt.Errorf("the user namespace has no ID %d", id)
}

// pinInUserNamespace makes a user namespace and in it the others, which then belong to it, and pins them.
//
// A process with several threads can make no user namespace for itself. So a child is started in them: this program once
// more, which the kernel stops at its first instruction, since the calling thread traces it, and kills when that thread ends.
func pinInUserNamespace(o Options) error {
	child, err := os.StartProcess("/proc/self/exe", []string{"user-namespace"}, &os.ProcAttr{Env: []string{}, Sys: &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWUSER, Unshareflags: uintptr(o.flags() &^ unix.CLONE_NEWUSER),
		UidMappings: o.Users.UIDs, GidMappings: o.Users.GIDs, GidMappingsEnableSetgroups: true,
		Ptrace: true, Pdeathsig: syscall.SIGKILL,
	}})
	if err != nil {
		return fmt.Errorf("make namespaces %s: %w", strings.Join(o.Kinds, ", "), err)
	}
	defer func() {
		_ = child.Kill()
		_, _ = child.Wait()
	}()
	return o.pin("/proc/" + strconv.Itoa(child.Pid) + "/ns")
}
