package auth

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Verb is what a request with this method does to the resource.
//
// Upstream: pkg/kubelet/server/auth.go GetRequestAttributes
func Verb(method string) string {
	return map[string]string{
		http.MethodPost: "create", http.MethodGet: "get", http.MethodHead: "get",
		http.MethodPut: "update", http.MethodPatch: "patch", http.MethodDelete: "delete",
	}[method]
}

// Authorize reports whether the user may do verb to one of the subresources of the node.
func (a *Auth) Authorize(ctx context.Context, user *User, verb string, subresources ...string) (bool, error) {
	if a.options.AlwaysAllow {
		return true, nil
	}
	if a.options.Access == nil {
		return false, nil
	}
	for _, subresource := range subresources {
		allowed, err := a.mayAccess(ctx, user, verb, subresource)
		if err != nil || allowed {
			return allowed, err
		}
	}
	return false, nil
}

func (a *Auth) mayAccess(ctx context.Context, user *User, verb, subresource string) (bool, error) {
	spec := authorizationv1.SubjectAccessReviewSpec{
		User: user.Name, UID: user.UID, Groups: user.Groups,
		ResourceAttributes: &authorizationv1.ResourceAttributes{
			Verb: verb, Version: "v1", Resource: "nodes", Subresource: subresource, Name: a.options.NodeName,
		},
	}
	for key, values := range user.Extra {
		if spec.Extra == nil {
			spec.Extra = map[string]authorizationv1.ExtraValue{}
		}
		spec.Extra[key] = values
	}
	key, err := json.Marshal(spec) // maps are sorted
	if err != nil {
		return false, fmt.Errorf("write access review: %w", err)
	}
	return a.accesses.get(ctx, key, func(ctx context.Context) (bool, time.Duration, error) {
		answer, err := a.options.Access.Create(ctx, &authorizationv1.SubjectAccessReview{Spec: spec}, metav1.CreateOptions{})
		if err != nil {
			return false, 0, fmt.Errorf("have the access reviewed: %w", err)
		}
		if answer.Status.Allowed && !answer.Status.Denied {
			return true, a.options.AuthorizedTTL, nil
		}
		return false, a.options.RefusedTTL, nil
	})
}
