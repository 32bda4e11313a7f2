package testcluster

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

func TestProcessesThatRaceForTheTemplateMakeOne(t *testing.T) {
	t.Parallel()
	_, err := findBinary(t.Context(), MariaDB)
	check(t, err)
	cache, temp := t.TempDir(), shortDir(t)
	env := []string{"XDG_CACHE_HOME=" + cache, "HOME=" + cache, "TMPDIR=" + temp}
	players := []*player{startPlayer(t, "mariadb", env...), startPlayer(t, "mariadb", env...)}
	for _, p := range players {
		p.await(t, 1)
	}
	for _, p := range players {
		p.finish(t)
	}
	var names []string
	err = filepath.WalkDir(cache, func(path string, e os.DirEntry, err error) error {
		if err == nil && filepath.Base(filepath.Dir(path)) == "template" {
			names = append(names, e.Name())
			if e.IsDir() {
				return filepath.SkipDir
			}
		}
		return err
	})
	if err != nil || len(names) != 2 || names[0] != "lock" {
		t.Errorf("the folder of templates holds %q (%v), want lock and one template", names, err)
	}
}

func TestACopiedFileIsTheSameWithHoles(t *testing.T) {
	t.Parallel()
	const block = 64 << 10
	data := bytes.Repeat([]byte("x"), block)
	zero := make([]byte, block)
	for name, content := range map[string][]byte{
		"empty":               nil,
		"short":               []byte("short"),
		"one block":           data,
		"hole at the start":   bytes.Join([][]byte{zero, data}, nil),
		"hole at the end":     bytes.Join([][]byte{data, zero, zero[:7]}, nil),
		"hole in the middle":  bytes.Join([][]byte{data, zero, data, data[:1]}, nil),
		"only a hole":         zero,
		"a byte after a hole": append(bytes.Clone(zero), 'x'),
	} {
		from, to := filepath.Join(t.TempDir(), "from"), filepath.Join(t.TempDir(), "to")
		if err := os.WriteFile(from, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := copyFile(from, to); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		got, err := os.ReadFile(to)
		if err != nil || !bytes.Equal(got, content) {
			t.Errorf("%s: the copy has %d bytes and differs from the %d bytes copied (%v)", name, len(got), len(content), err)
		}
	}
}
