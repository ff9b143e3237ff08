// Package objectstest lets tests give a fake clientset to a package that asks for less.
package objectstest

import (
	"context"
	"fmt"

	authv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// typed is a typed client of a resource.
type typed[L runtime.Object] interface {
	List(ctx context.Context, o metav1.ListOptions) (L, error)
	Watch(ctx context.Context, o metav1.ListOptions) (watch.Interface, error)
}

// Watch returns what objects.Options.Watch wants.
func Watch(client kubernetes.Interface) func(resource, namespace string, selector fields.Selector) cache.ListerWatcher {
	return func(resource, namespace string, selector fields.Selector) cache.ListerWatcher {
		switch core := client.CoreV1(); resource {
		case "pods":
			return ListWatch(client, core.Pods(namespace), selector)
		case "secrets":
			return ListWatch(client, core.Secrets(namespace), selector)
		case "configmaps":
			return ListWatch(client, core.ConfigMaps(namespace), selector)
		case "services":
			return ListWatch(client, core.Services(namespace), selector)
		case "nodes":
			return ListWatch(client, core.Nodes(), selector)
		}
		panic(fmt.Sprintf("no test asks for %s yet", resource))
	}
}

// ListWatch wraps one typed client.
func ListWatch[L runtime.Object](client kubernetes.Interface, c typed[L], selector fields.Selector) cache.ListerWatcher {
	return cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.FieldSelector = selector.String()
			return c.List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.FieldSelector = selector.String()
			return c.Watch(ctx, o)
		},
	}, client)
}

// CreateToken returns what objects.Options.CreateToken wants.
func CreateToken(client kubernetes.Interface) func(context.Context, string, string, *authv1.TokenRequest) (*authv1.TokenRequest, error) {
	return func(ctx context.Context, namespace, name string, request *authv1.TokenRequest) (*authv1.TokenRequest, error) {
		return client.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, name, request, metav1.CreateOptions{})
	}
}
