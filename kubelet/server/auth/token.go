package auth

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// badTokenTTL is how long a token stays refused: long enough to keep guesses off the apiserver, and short, since a
// token can become valid.
const badTokenTTL = 10 * time.Second

// bearerToken returns the token of a request, and whether one was meant to be there.
//
// Upstream: staging/src/k8s.io/apiserver/pkg/authentication/request/bearertoken/bearertoken.go
func bearerToken(r *http.Request) (token string, given bool) {
	kind, token, _ := strings.Cut(strings.TrimSpace(r.Header.Get("Authorization")), " ")
	if !strings.EqualFold(kind, "bearer") {
		return "", false
	}
	return strings.TrimSpace(token), true
}

// tokenUser has the apiserver say whose the token is, unless it has just done so.
//
// Upstream: staging/src/k8s.io/apiserver/plugin/pkg/authenticator/token/webhook/webhook.go AuthenticateToken
func (a *Auth) tokenUser(ctx context.Context, token string) (*User, error) {
	if token == "" {
		return nil, errors.New("the bearer token is empty")
	}
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
