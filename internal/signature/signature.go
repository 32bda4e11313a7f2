// Package signature signs the headers by which the edge tells the application
// whose request this is, and verifies them there. Package routing signs,
// sharding's middleware verifies, and both hold the same key.
//
// A signature promises that somebody with the key wrote this shop, pod and
// epoch at most [Window] ago. It does not promise that the route is still the
// newest one (the write fence decides that), nor does it cover the rest of the
// request: whoever sees the headers can send them again with another body until
// the window has passed. That is why they never leave the edge's own network.
package signature

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/podworks/podworks"
)

const (
	// Window is how far the clock of the verifier may be from that of the
	// signer, in either direction, the way between them included.
	Window = 5 * time.Minute

	// MinKey is the least length of a key in bytes. It is that of the hash:
	// a shorter key would be the weakest part.
	MinKey = 32
)

// prefix is what the names of all headers of ours begin with.
const prefix = "X-Podworks-"

// version stands at the head of a signature and inside what is signed, so that
// another encoding can be introduced and never be taken for this one.
const version = "v1"

var (
	// ErrMissing says that the request carries none of the headers: it did not
	// come through the edge.
	ErrMissing = errors.New("signature: no route headers")

	// ErrInvalid says that the headers were not written by the edge, or not
	// lately, or not with this key. The message has the reason.
	ErrInvalid = errors.New("signature: route headers are not valid")
)

// The reasons for ErrInvalid. They repeat nothing that the request said.
var (
	errTwice   = fmt.Errorf("%w: a header appears more than once", ErrInvalid)
	errPartly  = fmt.Errorf("%w: some of the headers are missing", ErrInvalid)
	errForm    = fmt.Errorf("%w: a header is malformed", ErrInvalid)
	errVersion = fmt.Errorf("%w: the version of the signature is unknown; is the edge newer than this process?", ErrInvalid)
	errMAC     = fmt.Errorf("%w: the signature does not match; do both sides hold the same key?", ErrInvalid)
	errTime    = fmt.Errorf("%w: signed more than %v before or after now; are the clocks right?", ErrInvalid, Window)
)

// CheckKey reports whether key is long enough to sign with.
func CheckKey(key []byte) error {
	if len(key) < MinKey {
		return fmt.Errorf("signature: key has %d bytes, want %d or more", len(key), MinKey)
	}
	return nil
}

// Sign writes HeaderShop, HeaderPod, HeaderEpoch and HeaderSignature into h.
// The region is not among them: where a pod is active changes without the
// shop's epoch, and the application knows its own region.
//
// Sign does not look at the key's length; Verify refuses one that CheckKey
// refuses.
func Sign(h http.Header, key []byte, r podworks.Route, now time.Time) {
	unix := now.Unix()
	sig := make([]byte, 0, 96)
	sig = append(sig, version...)
	sig = append(sig, '.')
	sig = strconv.AppendInt(sig, unix, 10)
	sig = append(sig, '.')
	sig = appendMAC(sig, key, r, unix)

	v := []string{
		strconv.FormatInt(int64(r.Shop), 10),
		strconv.FormatInt(int64(r.Pod), 10),
		strconv.FormatUint(uint64(r.Epoch), 10),
		string(sig),
	}
	h[podworks.HeaderShop] = v[0:1:1]
	h[podworks.HeaderPod] = v[1:2:2]
	h[podworks.HeaderEpoch] = v[2:3:3]
	h[podworks.HeaderSignature] = v[3:4:4]
}

// Verify returns the route that h carries, its region left empty. Of its
// errors, ErrMissing and ErrInvalid are about the request; any other is about
// the key.
func Verify(h http.Header, key []byte, now time.Time) (podworks.Route, error) {
	r, err := verify(h, key, now)
	if err != nil {
		return podworks.Route{}, err
	}
	return r, nil
}

func verify(h http.Header, key []byte, now time.Time) (r podworks.Route, err error) {
	// Anyone can sign with an empty key.
	if err := CheckKey(key); err != nil {
		return r, err
	}

	var v [4]string
	found := 0
	for i, name := range [...]string{
		podworks.HeaderShop, podworks.HeaderPod, podworks.HeaderEpoch, podworks.HeaderSignature,
	} {
		switch values := h[name]; len(values) {
		case 0:
		case 1:
			v[i] = values[0]
			found++
		default:
			return r, errTwice
		}
	}
	switch found {
	case 0:
		return r, ErrMissing
	case len(v):
	default:
		return r, errPartly
	}

	shop, ok1 := parse(v[0], 64)
	pod, ok2 := parse(v[1], 32)
	epoch, err := strconv.ParseUint(v[2], 10, 64)
	ok3 := err == nil && epoch != 0 && v[2][0] != '0'
	head, rest, ok4 := strings.Cut(v[3], ".")
	stamp, mac, ok5 := strings.Cut(rest, ".")
	unix, ok6 := parse(stamp, 64)
	if !(ok1 && ok2 && ok3 && ok4 && ok5 && ok6) {
		return r, errForm
	}
	if head != version {
		return r, errVersion
	}
	r = podworks.Route{Shop: podworks.ShopID(shop), Pod: podworks.PodID(pod), Epoch: podworks.Epoch(epoch)}

	// The texts are compared, not the bytes they stand for, so that each route
	// has one signature at one time and not several spellings of it.
	var want [macLen]byte
	if !hmac.Equal([]byte(mac), appendMAC(want[:0], key, r, unix)) {
		return r, errMAC
	}

	// From here on unix is the edge's word, and the difference can't overflow.
	if age := now.Unix() - unix; age > int64(Window/time.Second) || age < -int64(Window/time.Second) {
		return r, errTime
	}
	return r, nil
}

// parse reads a number other than zero in the one form that Sign writes.
func parse(s string, bits int) (int64, bool) {
	n, err := strconv.ParseInt(s, 10, bits)
	if err != nil || n == 0 {
		return 0, false
	}
	var b [20]byte
	return n, string(strconv.AppendInt(b[:0], n, 10)) == s
}

// macLen is the length of a MAC in text.
const macLen = (sha256.Size*8 + 5) / 6

// appendMAC appends the MAC of r at the time unix in base64. What is signed has
// a fixed width for each part: two routes never share an encoding.
func appendMAC(dst, key []byte, r podworks.Route, unix int64) []byte {
	msg := make([]byte, 0, 64)
	msg = append(msg, "podworks route "+version+"\x00"...)
	msg = binary.BigEndian.AppendUint64(msg, uint64(r.Shop))
	msg = binary.BigEndian.AppendUint32(msg, uint32(r.Pod))
	msg = binary.BigEndian.AppendUint64(msg, uint64(r.Epoch))
	msg = binary.BigEndian.AppendUint64(msg, uint64(unix))

	h := hmac.New(sha256.New, key)
	h.Write(msg)
	return base64.RawURLEncoding.AppendEncode(dst, h.Sum(msg[:0]))
}

// Strip removes every X-Podworks-* header from h, whoever wrote it. Names are
// compared the way servers that turn headers into variables (CGI, WSGI, Rack)
// do: there X_Podworks_Shop arrives as X-Podworks-Shop.
func Strip(h http.Header) { StripPrefix(h, prefix) }

// StripPrefix removes the headers whose names begin with prefix from h,
// comparing as Strip does.
func StripPrefix(h http.Header, prefix string) {
	for name := range h {
		if hasPrefix(name, prefix) {
			delete(h, name)
		}
	}
}

// Present reports whether Strip would remove anything.
func Present(h http.Header) bool {
	for name := range h {
		if hasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

func hasPrefix(name, prefix string) bool {
	if len(name) < len(prefix) {
		return false
	}
	for i := range len(prefix) {
		if fold(name[i]) != fold(prefix[i]) {
			return false
		}
	}
	return true
}

func fold(c byte) byte {
	switch {
	case 'A' <= c && c <= 'Z':
		return c + 'a' - 'A'
	case c == '_':
		return '-'
	}
	return c
}
