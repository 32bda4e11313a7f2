//go:build !amd64

package site

import "runtime"

// Caller returns the place from which the function that calls it was called.
func Caller() Site {
	var pc [1]uintptr
	runtime.Callers(3, pc[:])
	return Site(pc[0])
}
