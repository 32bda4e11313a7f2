package matrix

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// The variables of the environment that Run knows. They are no flags, which would
// be of every test binary that imports the package.
const (
	updateVariable = "MATRIX_UPDATE"
	dirVariable    = "MATRIX_DIR"
)

// An output is where a run's results go.
type output struct {
	dir    string // or "" for nowhere
	update bool   // the golden files
}

// outputs reads the environment.
func outputs() (output, error) {
	var o output
	var errs []error
	if o.dir = os.Getenv(dirVariable); o.dir != "" && !filepath.IsAbs(o.dir) {
		errs = append(errs, fmt.Errorf("matrix: %s is %q, want an absolute path, such as \"$PWD/out\": go test runs each package's tests in the package's own folder", dirVariable, o.dir))
	}
	if v := os.Getenv(updateVariable); v != "" {
		var err error
		if o.update, err = strconv.ParseBool(v); err != nil {
			errs = append(errs, fmt.Errorf("matrix: %s is %q, want 1 to write the golden files, or nothing to compare with them", updateVariable, v))
		}
	}
	return o, errors.Join(errs...)
}

// previous returns the report that the run before left in the folder, or nil.
func (o output) previous(r *Report) (*Report, error) {
	file := filepath.Join(o.dir, r.Name+".json")
	f, err := os.Open(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("matrix: read the run before: %w", err)
	}
	defer f.Close()
	before, err := ReadReport(f)
	if err != nil {
		return nil, fmt.Errorf("%w: it should be in %s; remove that file", err, file)
	}
	if before.Package != r.Package || before.Test != r.Test {
		return nil, fmt.Errorf("matrix: %s is of %s in %s, and not of %s in %s: give each matrix a Name of its own, or remove the file if the test was renamed",
			file, before.Test, before.Package, r.Test, r.Package)
	}
	return before, nil
}

// write writes the report in all its forms into the folder.
func (o output) write(r *Report) error {
	if err := os.MkdirAll(o.dir, 0o777); err != nil {
		return fmt.Errorf("matrix: make the folder that %s names: %w", dirVariable, err)
	}
	var errs []error
	for ext, write := range map[string]func(*bytes.Buffer) error{
		".json": func(b *bytes.Buffer) error { return r.WriteJSON(b) },
		".html": func(b *bytes.Buffer) error { return r.WriteHTML(b) },
		".md":   func(b *bytes.Buffer) error { return r.WriteMarkdown(b) },
		".svg":  func(b *bytes.Buffer) error { return r.WriteSVG(b) },
	} {
		var b bytes.Buffer
		err := write(&b)
		if err == nil {
			err = replace(filepath.Join(o.dir, r.Name+ext), b.Bytes())
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("matrix: write the report: %w", err))
		}
	}
	return errors.Join(errs...)
}

// replace writes a file whole: what reads it meanwhile, or after this process was
// killed, sees the old one or the new one.
func replace(name string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(name), ".matrix-*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(0o644), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}

// golden compares the report with the golden files, or writes them. It returns
// what there is to say if that is no error.
func (o output) golden(r *Report, file string) (said string, err error) {
	picture := strings.TrimSuffix(file, ".md") + ".svg"
	if n := r.Count(StateNotRun); n > 0 {
		return fmt.Sprintf("%s was neither compared nor written: %s not run", file, count(n, "cell")), nil
	}
	if r.Err() != nil {
		return fmt.Sprintf("%s was neither compared nor written: it says what was proven, and cells are red", file), nil
	}
	var md, svg bytes.Buffer
	if err := errors.Join(r.markdown(&md, filepath.Base(picture)), r.WriteSVG(&svg)); err != nil {
		return "", err
	}
	again := fmt.Sprintf("To make it so, run\n\t%s=1 %s\nand commit %s and %s.", updateVariable, command(r.Package, r.Test), file, picture)
	var written []string
	for _, g := range []struct {
		name string
		want []byte
	}{{file, md.Bytes()}, {picture, svg.Bytes()}} {
		got, err := os.ReadFile(g.name)
		missing := errors.Is(err, fs.ErrNotExist)
		if err != nil && !missing {
			return "", fmt.Errorf("matrix: compare with the golden file: %w", err)
		}
		// git may have been told to check out files with carriage returns.
		if !missing && bytes.Equal(bytes.ReplaceAll(got, []byte("\r\n"), []byte("\n")), g.want) {
			continue
		}
		if o.update {
			if err := replace(g.name, g.want); err != nil {
				return "", fmt.Errorf("matrix: write the golden file: %w", err)
			}
			written = append(written, g.name)
			continue
		}
		if missing {
			return "", fmt.Errorf("matrix: %s does not exist. %s", g.name, again)
		}
		return "", fmt.Errorf("matrix: %s is not what was tested:\n%s\n%s", g.name, difference(string(got), string(g.want)), again)
	}
	if len(written) > 0 {
		return "written, please commit: " + strings.Join(written, ", "), nil
	}
	return "", nil
}

// difference shows the first line in which two texts differ.
func difference(file, tested string) string {
	a, b := strings.Split(file, "\n"), strings.Split(tested, "\n")
	for i := range max(len(a), len(b)) {
		var x, y string
		if i < len(a) {
			x = strings.TrimSuffix(a[i], "\r")
		}
		if i < len(b) {
			y = b[i]
		}
		if x != y {
			return fmt.Sprintf("\tline %d says: %s\n\twas tested: %s", i+1, x, y)
		}
	}
	return "\tit differs in its ends of lines"
}
