// What containerd does with the mounts of a snapshot, by its own mount package:
//
//	containerd FOLDER OPTIONS    mounts overlay, helped by mountfd-overlay, on FOLDER/point; reads FOLDER/point/deep and writes
//	                             FOLDER/point/new, looks the mount up, takes it away; then looks once more, at a place of its own
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/mount"
)

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "containerd:", err)
		os.Exit(1)
	}
}

func main() {
	point := filepath.Join(os.Args[1], "point")
	snapshot := []mount.Mount{{
		Type:    "fuse3.mountfd-overlay",
		Source:  "overlay",
		Options: strings.Split(os.Args[2], ","),
	}}
	must(mount.All(snapshot, point))
	content, err := os.ReadFile(filepath.Join(point, "deep"))
	must(err)
	must(os.WriteFile(filepath.Join(point, "new"), []byte("kept"), 0o644))
	info, err := mount.Lookup(point)
	must(err)
	fmt.Println(string(content), info.FSType, info.Mountpoint == point)
	must(mount.UnmountAll(point, 0))
	must(mount.WithTempMount(context.Background(), snapshot, func(root string) error {
		content, err := os.ReadFile(filepath.Join(root, "new"))
		fmt.Println(string(content), err)
		return err
	}))
}
