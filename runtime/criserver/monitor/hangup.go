package monitor

import (
	"os"
	"os/signal"
	"syscall"
)

// HearHangup keeps the processes that this one starts from ignoring SIGHUP. They would if this process was started so, as by nohup: a program in
// a container could then not be told to read its configuration again, nor end with its terminal. This process goes on ignoring it.
func HearHangup() {
	if signal.Ignored(syscall.SIGHUP) {
		signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP) // a signal that is heard is the default in new programs; this channel has no reader
	}
}
