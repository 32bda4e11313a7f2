package podworks_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// The import rule: every package of the suite can be taken alone, and so can be
// understood, replaced and left out alone. Applications compose packages; packages
// don't compose each other.
//
//	who                             may import
//	everyone                        std, the root, its own ancestors, internal/…,
//	                                and the third-party modules below
//	packages of internal/           the same; they have no ancestors to speak of
//	test files                      a package's own test kits below it (x/xtest)
//	test files of package x_test    toxi and what is below it
//	examples/…, a module of its own anything
//	other nested modules            any third-party module; of ours as above
//
// Package testing is for _test.go files, internal/…, packages whose names end
// in "test", and toxi/matrix, which is a test kit by another name. No other
// package may depend on one that imports it, so that it is in no production binary.

const module = "github.com/podworks/podworks"

// thirdParty are the modules that the root module may require, each with what for.
// A new one is paid for by everyone who imports any package of ours.
var thirdParty = map[string]string{
	"github.com/go-sql-driver/mysql":   "the driver below sharding's connector",
	"github.com/go-mysql-org/go-mysql": "the binlog protocol",
	"github.com/redis/go-redis/v9":     "the Redis client",
	"github.com/bradfitz/gomemcache":   "the memcached client",
	"github.com/sony/gobreaker/v2":     "an adapter beside semian's own breaker",
	"golang.org/x/time":                "x/time/rate, the limiter everybody knows",
}

// An exception lets one package import what the rule forbids. One that is not
// used any more fails the test: remove it.
type exception struct {
	imports []string // packages of ours, relative to the module
	reason  string
}

// exceptions are for test files, but for one of a package and its own part below.
var exceptions = map[string]exception{
	"ferry": {
		imports: []string{"ferry/binlog"},
		reason:  "a move follows the source's log; the stream is useful alone, so it is a package of its own below",
	},
	"internal/story": {
		imports: []string{"sharding", "sharding/master", "routing", "ferry"},
		reason:  "tests of the whole: they compose sharding, routing and ferry the way an application does",
	},
}

// A file is what the test knows of a Go file.
type file struct {
	name    string // relative to the root, with slashes
	dir     string // of its package, "." for the root
	pkg     string // as in its package clause
	nested  bool   // in a nested module
	imports []string
}

func (f file) test() bool { return strings.HasSuffix(f.name, "_test.go") }

func TestPackagesImportOnlyWhatTheyMay(t *testing.T) {
	t.Parallel()
	files := goFiles(t)
	used := make(map[string]bool) // packages that needed their exception
	for _, f := range files {
		for _, imp := range f.imports {
			if why := refuse(f, imp, used); why != "" {
				t.Errorf("%s imports %s: %s", f.name, imp, why)
			}
		}
	}
	for _, dir := range slices.Sorted(maps.Keys(exceptions)) {
		exists := slices.ContainsFunc(files, func(f file) bool { return f.dir == dir })
		if exists && !used[dir] {
			t.Errorf("%s does not use its exception: remove it from the list", dir)
		}
	}
}

// refuse says why f must not import imp, or nothing.
func refuse(f file, imp string, used map[string]bool) string {
	ours, isOurs := within(imp, module)
	if !isOurs {
		first, _, _ := strings.Cut(imp, "/")
		switch {
		case !strings.Contains(first, "."):
			return "" // std; package testing has a test of its own
		case f.nested:
			return ""
		}
		for mod := range thirdParty {
			if _, ok := within(imp, mod); ok {
				return ""
			}
		}
		return "the root module requires the modules listed in this test and no others; put an adapter for this one into a nested module"
	}

	_, isInternal := within(ours, "internal")
	_, isAncestor := within(f.dir, ours)
	switch {
	case ours == ".", isInternal, isAncestor:
		return ""
	case ours == "examples" || strings.HasPrefix(ours, "examples/"):
		return "examples use the suite, not the other way round"
	}
	if e := exceptions[f.dir]; slices.Contains(e.imports, ours) {
		used[f.dir] = true
		return ""
	}
	if f.test() {
		if below, ok := within(ours, f.dir); ok && below != "." && strings.HasSuffix(ours, "test") {
			return "" // its own test kit
		}
		if _, ok := within(ours, "toxi"); ok && strings.HasSuffix(f.pkg, "_test") {
			return ""
		}
	}
	if _, ok := within(ours, f.dir); ok {
		return "a package does not import what is below it, or nobody could take the one without the other"
	}
	return "siblings never import each other: declare an interface of builtin, std and root types where it is used, " +
		"and let the application connect the two; what both need goes to internal/"
}

// within reports whether p is dir or below it, and what remains of it ("." when
// they are the same).
func within(p, dir string) (rest string, ok bool) {
	switch dir {
	case p:
		return ".", true
	case ".":
		return p, true
	}
	return strings.CutPrefix(p, dir+"/")
}

func TestNoProductionPackageDependsOnTesting(t *testing.T) {
	t.Parallel()
	// What the production files of each package import of ours, and which of them
	// import testing.
	ours := make(map[string][]string)
	imports := make(map[string]string) // package: the file that imports testing
	for _, f := range goFiles(t) {
		if f.test() {
			continue
		}
		for _, imp := range f.imports {
			if p, ok := within(imp, module); ok {
				ours[f.dir] = append(ours[f.dir], p)
			}
			if _, ok := within(imp, "testing"); ok {
				imports[f.dir] = f.name
			}
		}
	}
	var reach func(dir string, seen map[string]bool) string
	reach = func(dir string, seen map[string]bool) string {
		if name := imports[dir]; name != "" {
			return name
		}
		for _, p := range ours[dir] {
			if seen[p] {
				continue
			}
			seen[p] = true
			if name := reach(p, seen); name != "" {
				return name
			}
		}
		return ""
	}
	for _, dir := range slices.Sorted(maps.Keys(ours)) {
		if _, ok := within(dir, "internal"); ok || strings.HasSuffix(dir, "test") || dir == "toxi/matrix" {
			continue
		}
		if name := reach(dir, make(map[string]bool)); name != "" {
			t.Errorf("package %s would bring package testing into production binaries, by %s: only _test.go files, internal/ and packages whose names end in test may import it", dir, name)
		}
	}
}

func TestTheRootModuleRequiresOnlyWhatItMay(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	block := ""
	for line := range strings.Lines(string(data)) {
		words := strings.Fields(line)
		switch {
		case len(words) == 0:
			continue
		case words[0] == ")":
			block = ""
			continue
		case len(words) == 2 && words[1] == "(":
			block = words[0]
			continue
		case block != "":
			words = append([]string{block}, words...)
		}
		switch words[0] {
		case "replace", "exclude":
			t.Errorf("go.mod: %s: it has no effect on those who import the module; nested modules meet through go.work", strings.TrimSpace(line))
		case "require":
			if _, ok := thirdParty[words[1]]; !ok && !strings.HasSuffix(strings.TrimSpace(line), "// indirect") {
				t.Errorf("go.mod requires %s: that is not among the modules listed in this test; put what needs it into a nested module", words[1])
			}
		}
	}
}

// goFiles parses the imports of every Go file except those of examples/.
func goFiles(t *testing.T) []file {
	t.Helper()
	var files []file
	nested := make(map[string]bool) // directories of nested modules and below
	fset := token.NewFileSet()
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name = filepath.ToSlash(name)
		base := path.Base(name)
		if d.IsDir() {
			switch {
			case name == ".":
			case name == "examples", base == "testdata", base == "vendor", strings.HasPrefix(base, "."), strings.HasPrefix(base, "_"):
				return fs.SkipDir
			default:
				_, err := os.Stat(filepath.Join(name, "go.mod"))
				nested[name] = err == nil || nested[path.Dir(name)]
			}
			return nil
		}
		if !strings.HasSuffix(base, ".go") {
			return nil
		}
		parsed, err := parser.ParseFile(fset, name, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		dir := path.Dir(name)
		files = append(files, file{name: name, dir: dir, pkg: parsed.Name.Name, nested: nested[dir], imports: paths(parsed)})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 3 {
		t.Fatalf("found %d Go files: is this the root of the module?", len(files))
	}
	return files
}

func paths(f *ast.File) []string {
	var out []string
	for _, spec := range f.Imports {
		if p, err := strconv.Unquote(spec.Path.Value); err == nil {
			out = append(out, p)
		}
	}
	return out
}

// The rule itself, in the cases that matter.
func TestTheImportRule(t *testing.T) {
	t.Parallel()
	const root = module + "/"
	tests := []struct {
		file    file
		imp     string
		allowed bool
	}{
		{file{name: "routing/router.go", dir: "routing"}, "net/http", true},
		{file{name: "routing/router.go", dir: "routing"}, module, true},
		{file{name: "routing/router.go", dir: "routing"}, root + "internal/signature", true},
		{file{name: "routing/router.go", dir: "routing"}, root + "sharding", false},
		{file{name: "routing/router.go", dir: "routing"}, root + "routing/control", false},
		{file{name: "routing/router.go", dir: "routing"}, root + "examples/flashsale", false},
		{file{name: "routing/router.go", dir: "routing"}, root + "toxi", false},
		{file{name: "routing/router.go", dir: "routing"}, "golang.org/x/time/rate", true},
		{file{name: "routing/router.go", dir: "routing"}, "golang.org/x/timer", false},
		{file{name: "routing/router.go", dir: "routing"}, "example.com/x", false},
		{file{name: "routing/x/x.go", dir: "routing/x", nested: true}, "example.com/x", true},
		{file{name: "routing/x/x.go", dir: "routing/x", nested: true}, root + "sharding", false},
		{file{name: "sharding/jobs/jobs.go", dir: "sharding/jobs"}, root + "sharding", true},
		{file{name: "sharding/jobs/jobs.go", dir: "sharding/jobs"}, root + "sharding/cron", false},
		{file{name: "podworks.go", dir: "."}, root + "routing", false},
		{file{name: "podworks.go", dir: "."}, root + "internal/hook", true},
		{file{name: "internal/hook/hook.go", dir: "internal/hook"}, root + "internal/fence", true},
		{file{name: "internal/hook/hook.go", dir: "internal/hook"}, root + "ferry", false},
		{file{name: "routing/a_test.go", dir: "routing", pkg: "routing_test"}, root + "toxi", true},
		{file{name: "routing/a_test.go", dir: "routing", pkg: "routing_test"}, root + "toxi/toxitest", true},
		{file{name: "routing/a_test.go", dir: "routing", pkg: "routing"}, root + "toxi", false},
		{file{name: "routing/a_test.go", dir: "routing", pkg: "routing_test"}, root + "routing/routingtest", true},
		{file{name: "routing/a_test.go", dir: "routing", pkg: "routing_test"}, root + "throttle/throttletest", false},
		{file{name: "routing/a_test.go", dir: "routing", pkg: "routing_test"}, root + "sharding", false},
		{file{name: "internal/story/a_test.go", dir: "internal/story", pkg: "story_test"}, root + "sharding", true},
		{file{name: "internal/story/a.go", dir: "internal/story", pkg: "story"}, root + "routing/control", false},
		{file{name: "ferry/tail.go", dir: "ferry"}, root + "ferry/binlog", true},
		{file{name: "ferry/tail.go", dir: "ferry"}, root + "ferry/cdc", false},
	}
	for _, tt := range tests {
		why := refuse(tt.file, tt.imp, make(map[string]bool))
		if allowed := why == ""; allowed != tt.allowed {
			t.Errorf("%s (package %s) imports %s: allowed %t (%s), want %t", tt.file.name, tt.file.pkg, tt.imp, allowed, why, tt.allowed)
		}
	}
}
