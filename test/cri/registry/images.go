package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// config is what an image says of its process, in the words of the OCI image specification.
type config struct {
	User       string              `json:",omitempty"`
	Env        []string            `json:",omitempty"`
	Entrypoint []string            `json:",omitempty"`
	Cmd        []string            `json:",omitempty"`
	Volumes    map[string]struct{} `json:",omitempty"`
}

// images makes a stand-in of each image that the suite names (integration/images/image_list.go).
// Each has what the tests use of the original, on Debian's static busybox.
func images(busyboxPath, pausePath, nnpPath string) (store, error) {
	busybox, err := os.ReadFile(busyboxPath)
	if err != nil {
		return nil, err
	}
	pause, err := os.ReadFile(pausePath)
	if err != nil {
		return nil, err
	}
	applets, err := exec.Command(busyboxPath, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("%s --list: %w", busyboxPath, err)
	}

	base := newLayer()
	base.dir("bin", 0o755)
	base.file("bin/busybox", 0o755, busybox)
	for _, applet := range strings.Fields(string(applets)) {
		if applet != "busybox" {
			base.link("bin/"+applet, "bin/busybox")
		}
	}
	base.dir("etc", 0o755)
	base.file("etc/passwd", 0o644, []byte("root:x:0:0:root:/root:/bin/sh\n"+
		"daemon:x:1:1:daemon:/:/bin/false\nnobody:x:65534:65534:nobody:/:/bin/false\n"))
	base.file("etc/group", 0o644, []byte("root:x:0:\ndaemon:x:1:\nwheel:x:10:root\nnogroup:x:65534:\n"))
	base.dir("root", 0o700)
	base.dir("tmp", 0o1777)

	pauseOnly := newLayer()
	pauseOnly.file("pause", 0o755, pause)

	// stress -m 1 --vm-bytes 100M: a little more, because dd's buffer is all there is.
	consumer := newLayer()
	consumer.file("bin/stress", 0o755,
		[]byte("#!/bin/sh\ndd if=/dev/zero bs=105M count=1 | sleep 30\n"))

	copyUp := newLayer()
	for _, file := range []string{
		"test_dir/test_file", "C:/weird_test_dir/weird_test_file", ":colon_prefixed/colon_prefixed_file",
	} {
		copyUp.file(file, 0o644, []byte("test_content\n"))
	}

	ownership := newLayer()
	ownership.entry(tar.Header{
		Typeflag: tar.TypeDir, Name: "test_dir", Mode: 0o755, Uid: 65534, Gid: 65534,
	}, nil)

	shell := config{Env: []string{"PATH=/bin"}, Cmd: []string{"sh"}}
	pausing := config{Entrypoint: []string{"/pause"}}
	volumes := func(paths ...string) config {
		c := shell
		c.Volumes = map[string]struct{}{}
		for _, path := range paths {
			c.Volumes[path] = struct{}{}
		}
		return c
	}
	// As nginx does: open the log by way of /proc, say so, run on.
	server := shell
	server.Cmd = []string{"sh", "-c", "echo start worker processes >/proc/self/fd/2; exec sleep 1d"}

	s := store{}
	if err := critestImages(s, base, nnpPath); err != nil {
		return nil, err
	}
	s.add("ghcr.io/containerd/busybox:1.36", shell, base)
	s.add("ghcr.io/containerd/alpine:3.14.0", shell, base)
	s.add("ghcr.io/containerd/nginx:1.27.0", server, base)
	s.add("ghcr.io/containerd/volume-copy-up:2.2",
		volumes("/test_dir", "C:/weird_test_dir", "/:colon_prefixed"), base, copyUp)
	s.add("ghcr.io/containerd/volume-ownership:2.1", volumes("/test_dir"), base, ownership)
	s.add("registry.k8s.io/pause:3.10", pausing, pauseOnly)
	withShell := pausing
	withShell.Env = shell.Env
	s.add("registry.k8s.io/e2e-test-images/resource-consumer:1.10", withShell, base, pauseOnly, consumer)
	return s, nil
}

// layer is a tar archive in the making.
type layer struct {
	bytes bytes.Buffer
	tar   *tar.Writer
}

func newLayer() *layer {
	l := &layer{}
	l.tar = tar.NewWriter(&l.bytes)
	return l
}

func (l *layer) entry(header tar.Header, content []byte) {
	header.Size = int64(len(content))
	err := l.tar.WriteHeader(&header)
	if err == nil {
		_, err = l.tar.Write(content)
	}
	if err != nil {
		panic(err) // in memory: only a wrong header can fail
	}
}

func (l *layer) dir(name string, mode int64) {
	l.entry(tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: mode}, nil)
}

func (l *layer) file(name string, mode int64, content []byte) {
	l.entry(tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode}, content)
}

func (l *layer) link(name, target string) {
	l.entry(tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target, Mode: 0o755}, nil)
}

// blob is one content of a registry.
type blob struct {
	kind    string
	content []byte
}

// store holds blobs by "HOST/NAME:TAG" or "HOST/NAME@DIGEST".
type store map[string]blob

// put stores a blob of the image by its digest, and answers its descriptor.
func (s store) put(name, kind string, content []byte) map[string]any {
	digest := fmt.Sprintf("sha256:%x", sha256.Sum256(content))
	s[name+"@"+digest] = blob{kind, content}
	return map[string]any{"mediaType": kind, "digest": digest, "size": len(content)}
}

func (s store) add(reference string, config config, layers ...*layer) {
	const oci = "application/vnd.oci.image."
	name, _, _ := strings.Cut(reference, ":")

	var descriptors []any
	var diffs []any
	for _, layer := range layers {
		if err := layer.tar.Flush(); err != nil {
			panic(err)
		}
		// A tar ends by two empty blocks; the layer stays open for the next image.
		content := append(bytes.Clone(layer.bytes.Bytes()), make([]byte, 1024)...)
		descriptor := s.put(name, oci+"layer.v1.tar", content)
		descriptors = append(descriptors, descriptor)
		diffs = append(diffs, descriptor["digest"])
	}
	manifest := encode(map[string]any{
		"schemaVersion": 2,
		"mediaType":     oci + "manifest.v1+json",
		"config": s.put(name, oci+"config.v1+json", encode(map[string]any{
			"architecture": "amd64",
			"os":           "linux",
			"config":       config,
			"rootfs":       map[string]any{"type": "layers", "diff_ids": diffs},
		})),
		"layers": descriptors,
	})
	s.put(name, oci+"manifest.v1+json", manifest)
	s[reference] = blob{oci + "manifest.v1+json", manifest}
}

func encode(value any) []byte {
	text, err := json.Marshal(value)
	if err != nil {
		panic(err)
	}
	return text
}
