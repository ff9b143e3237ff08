package main

import (
	"fmt"
	"strings"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	"k8s.io/client-go/tools/cache"
)

// testZone has a service with an address, a headless one with a named and a nameless endpoint, and an alias.
func testZone(t *testing.T) zone {
	t.Helper()
	services := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
	endpoints := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
	tcp, http, eighty := corev1.ProtocolTCP, "http", int32(80)
	for name, spec := range map[string]corev1.ServiceSpec{
		"web":      {ClusterIP: "10.96.0.7", Ports: []corev1.ServicePort{{Name: http, Protocol: tcp, Port: eighty}}},
		"headless": {ClusterIP: corev1.ClusterIPNone},
		"alias":    {Type: corev1.ServiceTypeExternalName, ExternalName: "foo.example.com"},
	} {
		if err := services.Add(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, Spec: spec}); err != nil {
			t.Fatal(err)
		}
	}
	err := endpoints.Add(&discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "headless-1", Labels: map[string]string{discoveryv1.LabelServiceName: "headless"}},
		Endpoints: []discoveryv1.Endpoint{
			{Addresses: []string{"10.88.0.3"}, Hostname: new("db")}, {Addresses: []string{"10.88.0.4"}},
			{Addresses: []string{"10.88.0.5"}, Conditions: discoveryv1.EndpointConditions{Ready: new(false)}},
		},
		Ports: []discoveryv1.EndpointPort{{Name: &http, Protocol: &tcp, Port: &eighty}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return zone{services: corelisters.NewServiceLister(services), slices: discoverylisters.NewEndpointSliceLister(endpoints)}
}

func TestAnswer(t *testing.T) {
	z := testZone(t)
	for _, test := range []struct{ question, want string }{
		{"web.ns.svc.cluster.local. A", "10.96.0.7"},
		{"WEB.ns.svc.cluster.local. A", "10.96.0.7"},
		{"web.ns.svc.cluster.local. AAAA", ""},
		{"_http._tcp.web.ns.svc.cluster.local. SRV", "80 web.ns.svc.cluster.local."},
		{"_http._udp.web.ns.svc.cluster.local. SRV", "RCodeNameError"},
		{"headless.ns.svc.cluster.local. A", "10.88.0.3 10.88.0.4"},
		{"db.headless.ns.svc.cluster.local. A", "10.88.0.3"},
		{"10-88-0-4.headless.ns.svc.cluster.local. A", "10.88.0.4"},
		{"_http._tcp.headless.ns.svc.cluster.local. SRV", "80 db.headless.ns.svc.cluster.local. 80 10-88-0-4.headless.ns.svc.cluster.local."},
		{"alias.ns.svc.cluster.local. A", "foo.example.com."},
		{"alias.ns.svc.cluster.local. CNAME", "foo.example.com."},
		{"x.alias.ns.svc.cluster.local. A", "RCodeNameError"},
		{"7.0.96.10.in-addr.arpa. PTR", "web.ns.svc.cluster.local."},
		{"8.0.96.10.in-addr.arpa. PTR", "RCodeNameError"},
		{"none.ns.svc.cluster.local. A", "RCodeNameError"},
		{"ns.svc.cluster.local. A", ""},
		{"svc.cluster.local. A", ""},
		{"cluster.local. A", ""},
		{"cluster.local.ns.svc.cluster.local. A", "RCodeNameError"},
		{"example.com. A", "RCodeNameError"},
	} {
		name, kind, _ := strings.Cut(test.question, " ")
		if got := ask(t, z, name, kind, 512); got != test.want {
			t.Errorf("%s: %q, want %q", test.question, got, test.want)
		}
	}
}

// TestTooLongAnswer: one that does not fit into a packet is asked for again over TCP.
func TestTooLongAnswer(t *testing.T) {
	if got := ask(t, testZone(t), "headless.ns.svc.cluster.local.", "A", 60); got != "truncated" {
		t.Errorf("got %q", got)
	}
}

// ask sends a question as a client would and shows the answer.
func ask(t *testing.T, z zone, name, kind string, limit int) string {
	t.Helper()
	kinds := map[string]dnsmessage.Type{"A": dnsmessage.TypeA, "AAAA": dnsmessage.TypeAAAA, "SRV": dnsmessage.TypeSRV, "PTR": dnsmessage.TypePTR, "CNAME": dnsmessage.TypeCNAME}
	query := dnsmessage.Message{Header: dnsmessage.Header{ID: 7}, Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: kinds[kind], Class: dnsmessage.ClassINET}}}
	packed, err := query.Pack()
	if err != nil {
		t.Fatal(err)
	}
	var m dnsmessage.Message
	if err := m.Unpack(z.respond(packed, limit)); err != nil {
		t.Fatal(err)
	}
	if m.ID != 7 || !m.Response || len(m.Questions) != 1 {
		t.Fatalf("no answer to the question: %v", m.GoString())
	}
	if m.Truncated {
		return "truncated"
	}
	if m.RCode != dnsmessage.RCodeSuccess {
		return m.RCode.String()
	}
	var list []string
	for _, a := range m.Answers {
		switch r := a.Body.(type) {
		case *dnsmessage.AResource:
			list = append(list, fmt.Sprintf("%d.%d.%d.%d", r.A[0], r.A[1], r.A[2], r.A[3]))
		case *dnsmessage.SRVResource:
			list = append(list, fmt.Sprintf("%d %s", r.Port, r.Target))
		case *dnsmessage.CNAMEResource:
			list = append(list, r.CNAME.String())
		case *dnsmessage.PTRResource:
			list = append(list, r.PTR.String())
		}
	}
	return strings.Join(list, " ")
}

// FuzzRespond: whatever comes in a packet, what goes out is a message, or nothing.
func FuzzRespond(f *testing.F) {
	query := dnsmessage.Message{Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName("web.ns.svc.cluster.local."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}}}
	packed, err := query.Pack()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(packed)
	f.Fuzz(func(t *testing.T, data []byte) {
		reply := testZone(t).respond(data, 512)
		var m dnsmessage.Message
		if reply != nil && m.Unpack(reply) != nil {
			t.Errorf("a reply that nobody can read: %x", reply)
		}
	})
}
