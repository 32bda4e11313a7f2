// Package site finds the lines of the program that an error is about.
package site

import (
	"fmt"
	"path"
	"reflect"
	"runtime"
	"strings"
)

// A Site is a place in the program, as a program counter. Zero is nowhere.
type Site uintptr

// Func returns the place where the function fn, of any func type, begins.
func Func(fn any) Site { return Site(reflect.ValueOf(fn).Pointer()) }

// String returns folder/file.go:line, or "" for no site. It is slow, and meant
// for errors.
func (s Site) String() string {
	if s == 0 {
		return ""
	}
	frame, _ := runtime.CallersFrames([]uintptr{uintptr(s)}).Next()
	return line(frame)
}

// Start is String for a site that Func returned.
func (s Site) Start() string {
	// CallersFrames takes its argument for a return address, and looks at the
	// instruction before it, which is another function's here.
	return (s + 1).String()
}

// Use returns the place of the innermost caller that is neither one of the
// functions that skip names by the beginning of their names, nor of a library:
// an error in an ORM's file helps nobody. If all are, it returns the innermost
// that skip doesn't name.
func Use(skip ...string) string {
	pcs := make([]uintptr, 64)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(2, pcs)])
	first := ""
	for {
		frame, more := frames.Next()
		if frame.Function != "" && !skipped(frame.Function, skip) {
			if !library(frame.File) {
				return line(frame)
			}
			if first == "" {
				first = line(frame)
			}
		}
		if !more {
			return first
		}
	}
}

func skipped(function string, skip []string) bool {
	for _, s := range append(skip, "database/sql.", "runtime.", "testing.", "net/http.") {
		if strings.HasPrefix(function, s) {
			return true
		}
	}
	return false
}

// library reports whether file is of a module that was downloaded, which has a
// version in its path (with -trimpath too), or of a vendor folder.
func library(file string) bool {
	return strings.Contains(file, "@v") || strings.Contains(file, "/vendor/")
}

func line(f runtime.Frame) string {
	if f.File == "" {
		return ""
	}
	folder, file := path.Split(f.File)
	return fmt.Sprintf("%s:%d", path.Join(path.Base(folder), file), f.Line)
}
