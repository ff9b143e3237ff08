package identity

import (
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
	certutil "k8s.io/client-go/util/cert"
	"k8s.io/klog/v2"
)

// Requests is how certificates are asked for.
type Requests interface {
	Create(context.Context, *certificatesv1.CertificateSigningRequest, metav1.CreateOptions) (*certificatesv1.CertificateSigningRequest, error)
	Get(context.Context, string, metav1.GetOptions) (*certificatesv1.CertificateSigningRequest, error)
	List(context.Context, metav1.ListOptions) (*certificatesv1.CertificateSigningRequestList, error)
	Watch(context.Context, metav1.ListOptions) (watch.Interface, error)
}

// wanted is a certificate to ask for.
type wanted struct {
	name     string // of the request; "" for one that the apiserver makes up
	signer   string
	use      certificatesv1.KeyUsage // client auth or server auth
	template *x509.CertificateRequest
	key      crypto.Signer
}

// request asks for a certificate. A request of the name that is there already, from before a restart, is used again.
//
// Upstream: k8s.io/client-go/util/certificate/csr/csr.go RequestCertificateWithContext
func request(ctx context.Context, requests Requests, w wanted) (*certificatesv1.CertificateSigningRequest, error) {
	data, err := certutil.MakeCSRFromTemplate(w.key, w.template)
	if err != nil {
		return nil, fmt.Errorf("make a certificate request: %w", err)
	}
	usages := []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, w.use}
	if _, ok := w.key.Public().(*rsa.PublicKey); ok {
		usages = []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageKeyEncipherment, w.use}
	}
	r := &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{Name: w.name},
		Spec:       certificatesv1.CertificateSigningRequestSpec{Request: data, SignerName: w.signer, Usages: usages},
	}
	if w.name == "" {
		r.GenerateName = "csr-"
	}
	made, err := requests.Create(ctx, r, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) && w.name != "" {
		if made, err = requests.Get(ctx, w.name, metav1.GetOptions{}); err == nil {
			err = compatible(made, r, time.Now())
		}
	}
	if err != nil {
		return nil, fmt.Errorf("ask for a certificate: %w", err)
	}
	return made, nil
}

// compatible tells why a request that was made earlier does not lead to the certificate that is wanted.
func compatible(have, want *certificatesv1.CertificateSigningRequest, now time.Time) error {
	a, err := parseRequest(have.Spec.Request)
	if err != nil {
		return fmt.Errorf("read certificate signing request %s: %w", have.Name, err)
	}
	b, err := parseRequest(want.Spec.Request)
	if err != nil {
		return fmt.Errorf("read certificate signing request %s: %w", want.Name, err)
	}
	if a.Subject.String() != b.Subject.String() || have.Spec.SignerName != want.Spec.SignerName {
		return fmt.Errorf("certificate signing request %s is there for %s by %s", have.Name, a.Subject, have.Spec.SignerName)
	}
	if key, ok := a.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !key.Equal(b.PublicKey) {
		return fmt.Errorf("certificate signing request %s is there for another key", have.Name)
	}
	if len(have.Status.Certificate) == 0 {
		return nil
	}
	return unexpired("the certificate of certificate signing request "+have.Name, have.Status.Certificate, now)
}

func parseRequest(data []byte) (*x509.CertificateRequest, error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return nil, errors.New("it is not a certificate request in PEM")
	}
	return x509.ParseCertificateRequest(block.Bytes)
}

const (
	watchRetry = time.Second // after a watch that ended
	stalePoll  = time.Second // between looks whether a certificate is still wanted
)

var errStale = errors.New("what is wanted has changed meanwhile")

// await waits, by watch, until a request is signed, or is no longer wanted; stale may be nil.
func await(ctx context.Context, requests Requests, r *certificatesv1.CertificateSigningRequest, stale func() bool) ([]byte, error) {
	for {
		cert, err := follow(ctx, requests, r, stale)
		if _, final := errors.AsType[*refusedError](err); err == nil || final || errors.Is(err, errStale) {
			return cert, err
		}
		klog.FromContext(ctx).V(2).Info("The watch for the certificate ended, is started again", "certificateSigningRequest", r.Name, "why", err)
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for certificate signing request %s: %w", r.Name, ctx.Err())
		case <-time.After(watchRetry):
		}
	}
}

// follow watches once; an error that is neither refusedError nor errStale is one of the watch.
func follow(ctx context.Context, requests Requests, r *certificatesv1.CertificateSigningRequest, stale func() bool) ([]byte, error) {
	o := metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector(metav1.ObjectNameField, r.Name).String()}
	list, err := requests.List(ctx, o)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(list.Items, func(have certificatesv1.CertificateSigningRequest) bool { return have.Name == r.Name })
	if i < 0 {
		return nil, &refusedError{r.Name, "it was deleted"}
	}
	if cert, err := issued(r, &list.Items[i]); err != nil || cert != nil {
		return cert, err
	}
	o.ResourceVersion = list.ResourceVersion
	w, err := requests.Watch(ctx, o)
	if err != nil {
		return nil, err
	}
	defer w.Stop()
	var recheck <-chan time.Time
	if stale != nil {
		ticker := time.NewTicker(stalePoll)
		defer ticker.Stop()
		recheck = ticker.C
	}
	for {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-recheck:
			if stale() {
				return nil, errStale
			}
		case event, ok := <-w.ResultChan():
			if !ok {
				return nil, errors.New("the apiserver closed it")
			}
			if event.Type == watch.Error {
				return nil, apierrors.FromObject(event.Object)
			}
			now, ok := event.Object.(*certificatesv1.CertificateSigningRequest)
			switch {
			case !ok || now.Name != r.Name:
			case event.Type == watch.Deleted:
				return nil, &refusedError{r.Name, "it was deleted"}
			default:
				if cert, err := issued(r, now); err != nil || cert != nil {
					return cert, err
				}
			}
		}
	}
}

// issued is the certificate of a request, nil as long as it has none.
func issued(asked, now *certificatesv1.CertificateSigningRequest) ([]byte, error) {
	if now.UID != asked.UID {
		return nil, &refusedError{asked.Name, "it is another one now"}
	}
	approved := false
	for _, c := range now.Status.Conditions {
		switch c.Type {
		case certificatesv1.CertificateDenied, certificatesv1.CertificateFailed:
			return nil, &refusedError{asked.Name, fmt.Sprintf("%s: %s: %s", c.Type, c.Reason, c.Message)}
		case certificatesv1.CertificateApproved:
			approved = true
		}
	}
	if !approved || len(now.Status.Certificate) == 0 {
		return nil, nil
	}
	return now.Status.Certificate, nil
}

// refusedError is a request that nothing will come of.
type refusedError struct{ name, why string }

func (e *refusedError) Error() string {
	return fmt.Sprintf("certificate signing request %s: %s", e.name, e.why)
}
