package master

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"net/http"
	"time"

	"github.com/podworks/podworks/internal/signature"
)

const (
	// cookieName is also what the cookie is encrypted for.
	cookieName = "podworks_master"

	// cookieAge is how long a write is remembered. A replica that is further
	// behind than this shows its writers old values again.
	cookieAge = 10 * time.Minute
)

// Middleware gives each request a session, and remembers it in a cookie, so that
// a user reads what an earlier request wrote, whichever process serves them. Only
// a request that writes sets the cookie, and it lasts 10 minutes; it says no more
// than what was written when. A write after the response's header was sent is in
// no cookie.
//
// The key encrypts the cookie. It has at least 32 bytes and is the same in every
// process. A cookie that was not made with it, or is older, is ignored: a client
// must not choose what a read waits for, nor send its reads to the primary,
// which all regions share.
func (m *Master) Middleware(key []byte) (func(http.Handler) http.Handler, error) {
	box, err := newBox(key)
	if err != nil {
		return nil, err
	}
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			token := ""
			if c, err := r.Cookie(cookieName); err == nil {
				token, _ = box.open(c.Value, time.Now())
			}
			ctx := m.WithSession(r.Context(), token)
			cw := &cookieWriter{ResponseWriter: w, box: box, session: m.session(ctx)}
			next.ServeHTTP(cw, r.WithContext(ctx))
			cw.setCookie() // if the handler has sent nothing, the server does after this
		})
	}, nil
}

// A cookieWriter sets the cookie when the header goes out.
type cookieWriter struct {
	http.ResponseWriter
	box     box
	session *session
	sent    bool
}

// Unwrap is for http.ResponseController.
func (w *cookieWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *cookieWriter) WriteHeader(code int) {
	if code >= 200 || code == http.StatusSwitchingProtocols { // others come before the header
		w.setCookie()
	}
	w.ResponseWriter.WriteHeader(code)
}

func (w *cookieWriter) Write(b []byte) (int, error) {
	w.setCookie()
	return w.ResponseWriter.Write(b)
}

// Flush sends the header too.
func (w *cookieWriter) Flush() { _ = w.FlushError() }

// FlushError is what http.ResponseController calls.
func (w *cookieWriter) FlushError() error {
	w.setCookie()
	return http.NewResponseController(w.ResponseWriter).Flush()
}

func (w *cookieWriter) setCookie() {
	if w.sent {
		return
	}
	w.sent = true
	token, changed := w.session.token()
	if !changed {
		return
	}
	http.SetCookie(w, &http.Cookie{
		Name:     cookieName,
		Value:    w.box.seal(token, time.Now()),
		Path:     "/",
		MaxAge:   int(cookieAge / time.Second),
		HttpOnly: true,
		SameSite: http.SameSiteLaxMode,
	})
}

// A box encrypts tokens together with the time, and with the cookie's name, so
// that nothing else that the key has encrypted is taken for one.
type box struct{ aead cipher.AEAD }

func newBox(key []byte) (box, error) {
	if len(key) < signature.MinKey {
		return box{}, fmt.Errorf("master: key has %d bytes, want %d or more", len(key), signature.MinKey)
	}
	derived, err := hkdf.Key(sha256.New, key, nil, cookieName, 32)
	if err != nil {
		return box{}, fmt.Errorf("master: key: %w", err)
	}
	block, err := aes.NewCipher(derived)
	if err != nil {
		return box{}, fmt.Errorf("master: key: %w", err)
	}
	// Random nonces of 96 bits are good for 2^32 cookies, one for each request
	// that writes.
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return box{}, fmt.Errorf("master: key: %w", err)
	}
	return box{aead}, nil
}

func (b box) seal(token string, now time.Time) string {
	plain := binary.BigEndian.AppendUint64(nil, uint64(now.Unix()))
	plain = append(plain, token...)
	return base64.RawURLEncoding.EncodeToString(b.aead.Seal(nil, nil, plain, []byte(cookieName)))
}

// open returns the token of a cookie that is ours and not too old.
func (b box) open(value string, now time.Time) (string, bool) {
	if len(value) > base64.RawURLEncoding.EncodedLen(maxToken+8+b.aead.Overhead()) {
		return "", false
	}
	sealed, err := base64.RawURLEncoding.DecodeString(value)
	if err != nil {
		return "", false
	}
	plain, err := b.aead.Open(nil, nil, sealed, []byte(cookieName))
	if err != nil || len(plain) < 8 {
		return "", false
	}
	age := now.Sub(time.Unix(int64(binary.BigEndian.Uint64(plain)), 0))
	// Our clocks may differ by a little, in which case a cookie is from the future.
	if age < -cookieAge || age > cookieAge {
		return "", false
	}
	return string(plain[8:]), true
}
