package auth

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/streaming/pkg/httpstream/wsstream"
)

// badTokenTTL is how long a token stays refused: long enough to keep guesses off the apiserver, and short, since a
// token can become valid.
const badTokenTTL = 10 * time.Second

// tokenOf returns the bearer token of a request, "" if it has none. A browser cannot set headers of a WebSocket and
// sends it among the protocols; it is removed from there, since what is behind the server has no use for it.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/authentication/request/bearertoken/bearertoken.go, websocket/protocol.go
func tokenOf(r *http.Request) (string, error) {
	kind, token, _ := strings.Cut(strings.TrimSpace(r.Header.Get("Authorization")), " ")
	if token = strings.TrimSpace(token); strings.EqualFold(kind, "bearer") && token != "" {
		return token, nil
	}
	if !wsstream.IsWebSocketRequest(r) {
		return "", nil
	}
	token = ""
	var others []string
	for protocol := range strings.SplitSeq(strings.Join(r.Header.Values(socketProtocols), ","), ",") {
		protocol = strings.TrimSpace(protocol)
		encoded, found := strings.CutPrefix(protocol, tokenProtocol)
		if !found {
			others = append(others, protocol)
			continue
		}
		text, err := base64.RawURLEncoding.DecodeString(encoded)
		if err != nil || !utf8.Valid(text) || token != "" {
			return "", errors.New("the token among the WebSocket's protocols cannot be read")
		}
		token = string(text)
	}
	if token == "" {
		return "", nil
	}
	if len(others) == 0 {
		return "", errors.New("the WebSocket has no protocol beside the token")
	}
	r.Header.Set(socketProtocols, strings.Join(others, ","))
	return token, nil
}

// Where a WebSocket's token is.
const (
	socketProtocols = "Sec-WebSocket-Protocol"
	tokenProtocol   = "base64url.bearer.authorization.k8s.io."
)

// tokenUser has the apiserver say whose the token is, unless it has just done so.
func (a *Auth) tokenUser(ctx context.Context, token string) (*User, error) {
	user, err := a.tokens.get(ctx, []byte(token), func(ctx context.Context) (*User, time.Duration, error) {
		review := &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}}
		answer, err := a.options.Tokens.Create(ctx, review, metav1.CreateOptions{})
		if err != nil {
			return nil, 0, fmt.Errorf("have the token reviewed: %w", err)
		}
		status := answer.Status
		if !status.Authenticated || status.User.Username == "" {
			return nil, min(badTokenTTL, a.options.TokenTTL), nil
		}
		user := &User{Name: status.User.Username, UID: status.User.UID, Groups: withAuthenticated(status.User.Groups), Extra: map[string][]string{}}
		for key, values := range status.User.Extra {
			user.Extra[key] = values
		}
		return user, a.options.TokenTTL, nil
	})
	if err == nil && user == nil {
		err = errors.New("the bearer token is not valid")
	}
	return user, err
}

func withAuthenticated(groups []string) []string {
	if slices.Contains(groups, authenticated) {
		return groups
	}
	return append(slices.Clone(groups), authenticated)
}
