package server

import (
	"encoding/binary"
	"net/http"
	"strings"
)

// protocol knows the frames of an upgraded connection as far as it takes to answer pings in between.
type protocol interface {
	// size returns the length of the frame that begins with head, 0 while head is too short to tell.
	size(head []byte) int64
	// pong returns the answer to a whole frame that asks for a sign of life, nil for every other frame.
	pong(frame []byte) []byte
	// ends tells whether a whole frame says that its sender sends no others.
	ends(frame []byte) bool
}

// maxPing is the length of the longest ping, a WebSocket's.
const maxPing = 2 + 4 + 125

// protocolOf returns the protocol that a connection was upgraded to, nil if it is not known.
func protocolOf(header http.Header) protocol {
	switch upgrade := strings.ToLower(header.Get("Upgrade")); {
	case strings.HasPrefix(upgrade, "spdy/3"):
		return spdyFrames{}
	case upgrade == "websocket":
		return webSocketFrames{}
	}
	return nil
}

// spdyFrames begin with 8 bytes, of which the last 3 are the length of the rest.
type spdyFrames struct{}

func (spdyFrames) size(head []byte) int64 {
	if len(head) < 8 {
		return 0
	}
	return 8 + int64(binary.BigEndian.Uint32(head[4:])&0xffffff)
}

// pong answers control frames of type 6 by themselves. Their last 4 bytes are a number, which is odd in a client's
// own pings and even in its answers to the runtime's.
func (spdyFrames) pong(frame []byte) []byte {
	if len(frame) != 12 || binary.BigEndian.Uint32(frame) != 0x8003_0006 || frame[11]&1 == 0 {
		return nil
	}
	return append([]byte(nil), frame...)
}

// ends recognises GOAWAY, a control frame of type 7.
func (spdyFrames) ends(frame []byte) bool {
	return len(frame) >= 8 && binary.BigEndian.Uint32(frame) == 0x8003_0007
}

// webSocketFrames begin with 2 bytes, as much more length as the second of them says, and 4 bytes of mask if their
// sender is a client.
type webSocketFrames struct{}

func (webSocketFrames) size(head []byte) int64 {
	if len(head) < 2 {
		return 0
	}
	header, length := 2, int64(head[1]&0x7f)
	if head[1]&0x80 != 0 {
		header += 4
	}
	switch {
	case length == 126 && len(head) >= 4:
		header, length = header+2, int64(binary.BigEndian.Uint16(head[2:]))
	case length == 127 && len(head) >= 10:
		header, length = header+8, int64(binary.BigEndian.Uint64(head[2:])&^(1<<63))
	case length >= 126:
		return 0
	}
	return int64(header) + min(length, 1<<62)
}

func (webSocketFrames) pong(frame []byte) []byte {
	const final, ping, pong = 0x80, 0x9, 0xa
	if len(frame) < 6 || frame[0] != final|ping || frame[1]&0x80 == 0 {
		return nil
	}
	mask, text := frame[2:6], frame[6:]
	answer := []byte{final | pong, byte(len(text))}
	for i, b := range text {
		answer = append(answer, b^mask[i%4])
	}
	return answer
}

func (webSocketFrames) ends(frame []byte) bool {
	const closes = 0x8
	return frame[0]&0xf == closes
}

// boundaries follows the frames in a stream of bytes.
type boundaries struct {
	protocol
	head []byte // of the frame under way
	left int64  // bytes of it that are still to come
}

// passed takes the next bytes and returns after how many of them a frame ends last, 0 if none does.
func (b *boundaries) passed(p []byte) (end int) {
	for i := 0; i < len(p); {
		if b.left == 0 {
			b.head = append(b.head, p[i])
			i++
			size := b.size(b.head)
			if size == 0 {
				continue
			}
			b.left = size - int64(len(b.head))
		} else {
			n := min(b.left, int64(len(p)-i))
			b.left -= n
			i += int(n)
		}
		if b.left == 0 {
			b.head, end = b.head[:0], i
		}
	}
	return end
}

// between tells whether the bytes so far end with a frame.
func (b *boundaries) between() bool { return b.left == 0 && len(b.head) == 0 }
