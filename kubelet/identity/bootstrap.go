package identity

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/util/keyutil"
	"k8s.io/klog/v2"

	"minikubelet/kubelet/client"
)

const (
	// keyFile keeps the key while its certificate is being waited for, so that a kubelet that is restarted meanwhile asks
	// for the same one again.
	keyFile = "kubelet-client.key.tmp"

	serverWait  = time.Minute // for the apiserver to answer, before it is asked for anything
	serverRetry = 2 * time.Second
	signingWait = time.Hour // for the request to be approved
)

// Bootstrap makes sure that there is a kubeconfig with a valid client certificate: it does nothing when there is one,
// and otherwise asks the apiserver, with the credentials of the bootstrap kubeconfig, for a certificate, waits until it
// has been signed, and writes it and the kubeconfig.
//
// Upstream: pkg/kubelet/certificate/bootstrap/bootstrap.go LoadClientCert
func Bootstrap(ctx context.Context, o Options) error {
	log := klog.FromContext(ctx)
	ok, why, err := usable(o.Kubeconfig, time.Now())
	if err != nil {
		return err
	}
	if ok {
		log.V(2).Info("The kubeconfig is valid, there is no need to bootstrap", "kubeconfig", o.Kubeconfig)
		return nil
	}
	log.Info("Bootstrapping a client certificate", "why", why, "bootstrapKubeconfig", o.BootstrapKubeconfig)
	config, err := load(o.BootstrapKubeconfig)
	if err != nil {
		return fmt.Errorf("read --bootstrap-kubeconfig %s: %w", o.BootstrapKubeconfig, err)
	}
	api, err := client.New(config)
	if err != nil {
		return fmt.Errorf("make a client from --bootstrap-kubeconfig %s: %w", o.BootstrapKubeconfig, err)
	}
	files, err := newStore(o.CertDir, clientPrefix)
	if err != nil {
		return err
	}
	key, signer, err := bootstrapKey(filepath.Join(o.CertDir, keyFile))
	if err != nil {
		return err
	}
	if err := awaitServer(ctx, api); err != nil {
		return err
	}
	cert, err := requestNodeCertificate(ctx, api.CertificateSigningRequests(), o.NodeName, signer)
	if err != nil {
		return fmt.Errorf("bootstrap a client certificate for node %s: %w", o.NodeName, err)
	}
	if _, err := files.update(cert, key); err != nil {
		return fmt.Errorf("keep the client certificate: %w", err)
	}
	if err := os.Remove(filepath.Join(o.CertDir, keyFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		log.Error(err, "The key's temporary file could not be removed")
	}
	return writeKubeconfig(o.Kubeconfig, o.BootstrapKubeconfig, files.currentPath())
}

// bootstrapKey is the key of an earlier attempt, or a new one.
func bootstrapKey(path string) (pem []byte, signer crypto.Signer, err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, nil, fmt.Errorf("make --cert-dir: %w", err)
	}
	if pem, err = os.ReadFile(path); err == nil {
		if signer, err := parseSigner(pem); err == nil {
			return pem, signer, nil
		}
	}
	if pem, err = keyutil.MakeEllipticPrivateKeyPEM(); err == nil {
		signer, err = parseSigner(pem)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("make a private key: %w", err)
	}
	return pem, signer, writePrivate(path, pem)
}

func parseSigner(pem []byte) (crypto.Signer, error) {
	key, err := keyutil.ParsePrivateKeyPEM(pem)
	if err != nil {
		return nil, err
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("%T cannot sign", key)
	}
	return signer, nil
}

// awaitServer returns when the apiserver answers, whatever it answers. Nothing announces that it does.
func awaitServer(ctx context.Context, api *client.Client) error {
	limited, cancel := context.WithTimeout(ctx, serverWait)
	defer cancel()
	for {
		err := api.Healthz(limited, serverRetry)
		if status := apierrors.APIStatus(nil); err == nil || errors.As(err, &status) && status.Status().Code < 500 {
			return nil
		}
		klog.FromContext(ctx).Info("The apiserver does not answer, will be asked again", "err", err)
		select {
		case <-time.After(serverRetry):
		case <-limited.Done():
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("wait for the apiserver: %w", err)
		}
	}
}

// requestNodeCertificate asks for a client certificate and waits, by watch, until it is signed.
func requestNodeCertificate(ctx context.Context, requests Requests, nodeName string, key crypto.Signer) ([]byte, error) {
	name, err := requestName(key.Public(), nodeName)
	if err != nil {
		return nil, err
	}
	made, err := request(ctx, requests, wanted{
		name: name, signer: certificatesv1.KubeAPIServerClientKubeletSignerName, use: certificatesv1.UsageClientAuth,
		template: &x509.CertificateRequest{Subject: subject(nodeName)}, key: key,
	})
	if err != nil {
		return nil, err
	}
	klog.FromContext(ctx).Info("Waiting for the client certificate to be signed", "certificateSigningRequest", made.Name)
	ctx, cancel := context.WithTimeout(ctx, signingWait)
	defer cancel()
	return await(ctx, requests, made, nil)
}

// requestName follows from the key and the node, so that the same request made twice is one.
func requestName(public crypto.PublicKey, nodeName string) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return "", fmt.Errorf("name the certificate request: %w", err)
	}
	hash := sha256.New()
	fmt.Fprintf(hash, "%d|%s|%s", len(nodeName), nodeName, der)
	return "node-csr-" + hex.EncodeToString(hash.Sum(nil)), nil
}
