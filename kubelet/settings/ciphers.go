package settings

import (
	"crypto/tls"
	"fmt"
	"strings"
)

// CipherSuite returns the number of a cipher suite that Go has, by any of the names that upstream takes.
//
// Upstream: staging/src/k8s.io/component-base/cli/flag/ciphersuites_flag.go TLSCipherSuites.
func CipherSuite(name string) (id uint16, ok bool) {
	if suite := findCipher(name, tls.CipherSuites()); suite != nil {
		return suite.ID, true
	}
	if suite := findCipher(name, tls.InsecureCipherSuites()); suite != nil {
		return suite.ID, true
	}
	return 0, false
}

// findCipher also knows the ChaCha20 suites by the names that they had before RFC 7905, without the hash at their end.
func findCipher(name string, suites []*tls.CipherSuite) *tls.CipherSuite {
	for _, suite := range suites {
		if suite.Name == name || strings.HasSuffix(name, "_CHACHA20_POLY1305") && suite.Name == name+"_SHA256" {
			return suite
		}
	}
	return nil
}

// insecureCiphers warns of cipher suites that Go calls insecure.
func insecureCiphers(names []string) (warnings []string) {
	for _, name := range names {
		if findCipher(name, tls.InsecureCipherSuites()) != nil {
			warnings = append(warnings, fmt.Sprintf("tlsCipherSuites: %s is insecure", name))
		}
	}
	return warnings
}
