// Registry serves the images of the CRI tests on 127.0.0.1:443, under their own names: who
// resolves ghcr.io to that address and trusts the certificate pulls them from here.
//
//	registry BUSYBOX PAUSE NNP CERTIFICATE
//
// BUSYBOX and PAUSE are static programs that go into the images. CERTIFICATE is a file that
// is written, with the public certificate, when the registry is ready.
package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

func main() {
	if len(os.Args) != 5 {
		log.Fatal("usage: registry BUSYBOX PAUSE NNP CERTIFICATE")
	}
	if err := run(os.Args[1], os.Args[2], os.Args[3], os.Args[4]); err != nil {
		log.Fatal(err)
	}
}

func run(busybox, pause, nnp, certificateFile string) error {
	store, err := images(busybox, pause, nnp)
	if err != nil {
		return err
	}
	certificate, err := selfSigned("gcr.io", "ghcr.io", "registry.k8s.io")
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:443")
	if err != nil {
		return err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Certificate[0]})
	if err := os.WriteFile(certificateFile+".new", text, 0o644); err != nil {
		return err
	}
	if err := os.Rename(certificateFile+".new", certificateFile); err != nil {
		return err
	}
	server := http.Server{
		Handler:   http.HandlerFunc(store.serve),
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{certificate}},
	}
	return server.ServeTLS(listener, "", "")
}

// serve answers what a pull asks: /v2/, /v2/NAME/manifests/TAG-OR-DIGEST, /v2/NAME/blobs/DIGEST.
func (s store) serve(w http.ResponseWriter, r *http.Request) {
	path := strings.TrimPrefix(r.URL.Path, "/v2/")
	if path == "" {
		return
	}
	name, reference, found := strings.Cut(path, "/manifests/")
	if !found {
		name, reference, _ = strings.Cut(path, "/blobs/")
	}
	separator := ":"
	if strings.HasPrefix(reference, "sha256:") {
		separator = "@"
	}
	blob, found := s[r.Host+"/"+name+separator+reference]
	if !found {
		log.Printf("not found: %s%s", r.Host, r.URL.Path)
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", blob.kind)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(blob.content))
}

func selfSigned(names ...string) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "CRI tests"},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
		DNSNames:     names,
		IsCA:         true,

		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, &key.PublicKey, key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}
