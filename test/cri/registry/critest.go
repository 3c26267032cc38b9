package main

import (
	"archive/tar"
	"fmt"
	"os"
)

// critestImages adds stand-ins of the images that critest names (its framework/util.go and
// validate/consts.go). Each has what the specs use of the original.
func critestImages(s store, base *layer, nnpPath string) error {
	const e2e = "registry.k8s.io/e2e-test-images/"
	const staging = "gcr.io/k8s-staging-cri-tools/"
	nnp, err := os.ReadFile(nnpPath)
	if err != nil {
		return err
	}
	shell := config{Env: []string{"PATH=/bin"}, Cmd: []string{"sh"}}

	// Applets that Debian's busybox is built without.
	tools := newLayer()
	tools.file("bin/ipcs", 0o755, []byte("#!/bin/sh\nexec cat /proc/sysvipc/shm\n"))
	tools.file("bin/pgrep", 0o755, []byte("#!/bin/sh\nexec pidof \"$1\"\n"))
	s.add(e2e+"busybox:1.29-2", shell, base, tools)

	// A program that runs as root whoever starts it, if it may.
	privileges := newLayer()
	privileges.entry(tar.Header{Typeflag: tar.TypeReg, Name: "nnp", Mode: 0o4755}, nnp)
	s.add(e2e+"nonewprivs:1.3", config{Entrypoint: []string{"/nnp"}}, privileges)

	// server is a web server with a process of that name and a pid file, as nginx has them.
	server := func(name, greeting string, port int) (config, *layer) {
		files := newLayer()
		files.dir("www", 0o755)
		files.file("www/index.html", 0o644, []byte("it works\n"))
		files.dir("var", 0o755)
		files.dir("var/run", 0o755)
		files.file("bin/"+name, 0o755, []byte(fmt.Sprintf(`#!/bin/sh
echo $$ >/var/run/%s.pid
%s
httpd -f -p %d -h /www &
trap 'kill $!; exit 0' TERM QUIT
wait
`, name, greeting, port)))
		// The words are nginx's title, which a spec looks for.
		return config{Env: shell.Env, Cmd: []string{"/bin/" + name, "master process"}}, files
	}
	add := func(reference, name, greeting string, port int) {
		config, files := server(name, greeting, port)
		s.add(reference, config, base, files)
	}
	add(e2e+"nginx:1.14-2", "nginx", ":", 80)
	add(staging+"hostnet-nginx-amd64:latest", "nginx", ":", 12003)
	files := newLayer()
	files.dir("www", 0o755)
	files.file("www/index.html", 0o644, []byte("it works\n"))
	files.file("bin/httpd-foreground", 0o755,
		[]byte("#!/bin/sh\necho \"Command line: 'httpd -D FOREGROUND'\" >&2\nexec httpd -f -p 80 -h /www\n"))
	s.add(e2e+"httpd:2.4.39-4",
		config{Env: shell.Env, Cmd: []string{"/bin/httpd-foreground"}}, base, files)

	// Images that are told apart by a file, or are the same under several names.
	plain := func(reference, content string) {
		mark := newLayer()
		mark.file("mark", 0o644, []byte(content))
		s.add(staging+reference, shell, base, mark)
	}
	plain("test-image-latest:latest", "latest")
	plain("test-image-tag:test", "tag")
	plain("test-image-tag:all", "all")
	for _, name := range []string{"1", "2", "3"} {
		plain("test-image-"+name+":latest", name)
		plain("test-image-tags:"+name, "tags")
	}

	users := newLayer()
	users.file("etc/passwd", 0o644, []byte("root:x:0:0:root:/root:/bin/sh\n"+
		"default-user:x:1000:1000::/:/bin/sh\nwww-data:x:33:33:www-data:/var/www:/bin/false\n"))
	users.file("etc/group", 0o644, []byte("root:x:0:\nwww-data:x:33:\ndefault-user:x:1000:\n"+
		"group-defined-in-image:x:50000:default-user\n"))
	user := func(reference, name string) {
		c := shell
		c.User = name
		s.add(staging+reference+":latest", c, base, users)
	}
	user("test-image-user-uid", "1002")
	user("test-image-user-username", "www-data")
	user("test-image-user-uid-group", "1003:users")
	user("test-image-user-username-group", "www-data:100")
	user("test-image-predefined-group", "1000")
	return nil
}
