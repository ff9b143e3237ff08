// Command dig does what the conformance suite asks of the program of that name: it looks a name up at the first
// nameserver of /etc/resolv.conf and prints the answers.
//
//	dig [+tcp|+notcp] [+search] [+short] [+noall] [+answer] NAME TYPE
package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

var kinds = map[string]dnsmessage.Type{
	"A": dnsmessage.TypeA, "CNAME": dnsmessage.TypeCNAME, "SRV": dnsmessage.TypeSRV, "PTR": dnsmessage.TypePTR,
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "dig:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	options := slices.DeleteFunc(slices.Clone(args), func(a string) bool { return !strings.HasPrefix(a, "+") })
	rest := slices.DeleteFunc(slices.Clone(args), func(a string) bool { return strings.HasPrefix(a, "+") })
	if len(rest) != 2 || kinds[rest[1]] == 0 {
		return errors.New("usage: dig [+OPTION ...] NAME TYPE")
	}
	server, searches, err := readConfig("/etc/resolv.conf")
	if err != nil {
		return err
	}
	names := []string{rest[0]}
	if slices.Contains(options, "+search") {
		for _, s := range searches {
			names = append(names, strings.TrimSuffix(rest[0], ".")+"."+s)
		}
	}
	network := "udp"
	if slices.Contains(options, "+tcp") {
		network = "tcp"
	}
	for _, name := range names {
		answers, err := ask(network, server, strings.TrimSuffix(name, ".")+".", kinds[rest[1]])
		if err != nil {
			return err
		}
		for _, a := range answers {
			if text := show(a.Body); slices.Contains(options, "+short") {
				fmt.Println(text)
			} else {
				fmt.Printf("%s %d IN %s %s\n", a.Header.Name, a.Header.TTL, strings.TrimPrefix(a.Header.Type.String(), "Type"), text)
			}
		}
		if len(answers) > 0 {
			return nil
		}
	}
	return nil
}

func readConfig(path string) (server string, searches []string, err error) {
	f, err := os.Open(path)
	if err != nil {
		return "", nil, err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		switch {
		case len(fields) < 2:
		case fields[0] == "nameserver" && server == "":
			server = net.JoinHostPort(fields[1], "53")
		case fields[0] == "search":
			searches = fields[1:]
		}
	}
	return server, searches, nil
}

// ask sends one question and returns the answers to it.
func ask(network, server, name string, kind dnsmessage.Type) ([]dnsmessage.Resource, error) {
	full, err := dnsmessage.NewName(name)
	if err != nil {
		return nil, err
	}
	query := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: uint16(os.Getpid()), RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: full, Type: kind, Class: dnsmessage.ClassINET}},
	}
	packed, err := query.Pack()
	if err != nil {
		return nil, err
	}
	c, err := net.DialTimeout(network, server, 5*time.Second)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return nil, err
	}
	reply, err := exchange(c, network, packed)
	if err != nil {
		return nil, err
	}
	var m dnsmessage.Message
	if err := m.Unpack(reply); err != nil {
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	if m.ID != query.ID || !m.Response {
		return nil, errors.New("an answer to something else")
	}
	return m.Answers, nil
}

// exchange sends a message and reads one; those on a stream have their length before them.
func exchange(c net.Conn, network string, query []byte) ([]byte, error) {
	if network == "udp" {
		if _, err := c.Write(query); err != nil {
			return nil, err
		}
		buf := make([]byte, 4096)
		n, err := c.Read(buf)
		return buf[:n], err
	}
	if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(query))), query...)); err != nil {
		return nil, err
	}
	var length uint16
	if err := binary.Read(c, binary.BigEndian, &length); err != nil {
		return nil, err
	}
	reply := make([]byte, length)
	_, err := io.ReadFull(c, reply)
	return reply, err
}

func show(body dnsmessage.ResourceBody) string {
	switch r := body.(type) {
	case *dnsmessage.AResource:
		return net.IP(r.A[:]).String()
	case *dnsmessage.CNAMEResource:
		return r.CNAME.String()
	case *dnsmessage.PTRResource:
		return r.PTR.String()
	case *dnsmessage.SRVResource:
		return fmt.Sprintf("%d %d %d %s", r.Priority, r.Weight, r.Port, r.Target)
	}
	return ""
}
