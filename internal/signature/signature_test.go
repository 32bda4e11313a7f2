package signature_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/podworks/podworks"
	"github.com/podworks/podworks/internal/signature"
)

var (
	key   = []byte("0123456789abcdef0123456789abcdef")
	now   = time.Unix(1_800_000_000, 0)
	route = podworks.Route{Shop: 42, Pod: 3, Epoch: 7}
)

func signed(r podworks.Route) http.Header {
	h := make(http.Header)
	signature.Sign(h, key, r, now)
	return h
}

func TestVerifyReturnsWhatWasSigned(t *testing.T) {
	t.Parallel()
	for _, r := range []podworks.Route{
		route,
		{Shop: 1, Pod: 1, Epoch: 1},
		{Shop: math.MaxInt64, Pod: math.MaxInt32, Epoch: math.MaxUint64},
		{Shop: math.MinInt64, Pod: math.MinInt32, Epoch: 1},
	} {
		got, err := signature.Verify(signed(r), key, now)
		if err != nil || got != r {
			t.Errorf("Verify(Sign(%+v)) = %+v, %v; want the same route", r, got, err)
		}
	}
}

func TestTheRegionIsNotSent(t *testing.T) {
	t.Parallel()
	r := route
	r.Region = "us-east1"
	h := signed(r)
	for name, values := range h {
		if strings.Contains(values[0], "us-east1") {
			t.Errorf("%s is %q, want no region in it", name, values[0])
		}
	}
	if got, err := signature.Verify(h, key, now); err != nil || got != route {
		t.Errorf("Verify = %+v, %v; want %+v", got, err, route)
	}
}

// The wire format is read by processes of other versions. A change of this test
// is a change of the format, and needs a new version in it.
func TestTheWireFormatDoesNotChange(t *testing.T) {
	t.Parallel()
	want := http.Header{
		"X-Podworks-Shop":      {"42"},
		"X-Podworks-Pod":       {"3"},
		"X-Podworks-Epoch":     {"7"},
		"X-Podworks-Signature": {"v1.1800000000.hzEQYXaanvgRe_AtPMFVxxX6g7sYp9JSucimhp1MY5c"},
	}
	if got := signed(route); !maps.EqualFunc(got, want, slices.Equal) {
		t.Errorf("Sign wrote\n%v, want\n%v", got, want)
	}
}

func TestSignReplacesWhatWasThere(t *testing.T) {
	t.Parallel()
	h := signed(podworks.Route{Shop: 1, Pod: 1, Epoch: 1})
	h.Add(podworks.HeaderShop, "2")
	signature.Sign(h, key, route, now)
	if got, err := signature.Verify(h, key, now); err != nil || got != route {
		t.Errorf("Verify = %+v, %v; want %+v", got, err, route)
	}
}

func TestVerifyRefuses(t *testing.T) {
	t.Parallel()
	set := func(name, value string) func(http.Header) {
		return func(h http.Header) { h.Set(name, value) }
	}
	mac := func(h http.Header) string {
		s := h.Get(podworks.HeaderSignature)
		return s[strings.LastIndexByte(s, '.')+1:]
	}
	tests := map[string]struct {
		change func(http.Header)
		want   error
	}{
		"no headers":          {func(h http.Header) { clear(h) }, signature.ErrMissing},
		"no shop":             {func(h http.Header) { h.Del(podworks.HeaderShop) }, signature.ErrInvalid},
		"no pod":              {func(h http.Header) { h.Del(podworks.HeaderPod) }, signature.ErrInvalid},
		"no epoch":            {func(h http.Header) { h.Del(podworks.HeaderEpoch) }, signature.ErrInvalid},
		"no signature":        {func(h http.Header) { h.Del(podworks.HeaderSignature) }, signature.ErrInvalid},
		"two shops":           {func(h http.Header) { h.Add(podworks.HeaderShop, "42") }, signature.ErrInvalid},
		"two pods":            {func(h http.Header) { h.Add(podworks.HeaderPod, "3") }, signature.ErrInvalid},
		"two epochs":          {func(h http.Header) { h.Add(podworks.HeaderEpoch, "7") }, signature.ErrInvalid},
		"two signatures":      {func(h http.Header) { h.Add(podworks.HeaderSignature, h.Get(podworks.HeaderSignature)) }, signature.ErrInvalid},
		"another shop":        {set(podworks.HeaderShop, "43"), signature.ErrInvalid},
		"another pod":         {set(podworks.HeaderPod, "4"), signature.ErrInvalid},
		"another epoch":       {set(podworks.HeaderEpoch, "8"), signature.ErrInvalid},
		"zero shop":           {set(podworks.HeaderShop, "0"), signature.ErrInvalid},
		"zero pod":            {set(podworks.HeaderPod, "0"), signature.ErrInvalid},
		"zero epoch":          {set(podworks.HeaderEpoch, "0"), signature.ErrInvalid},
		"empty shop":          {set(podworks.HeaderShop, ""), signature.ErrInvalid},
		"shop with a sign":    {set(podworks.HeaderShop, "+42"), signature.ErrInvalid},
		"shop with a zero":    {set(podworks.HeaderShop, "042"), signature.ErrInvalid},
		"shop with a space":   {set(podworks.HeaderShop, " 42"), signature.ErrInvalid},
		"shop in hexadecimal": {set(podworks.HeaderShop, "0x2a"), signature.ErrInvalid},
		"shop out of range":   {set(podworks.HeaderShop, "18446744073709551658"), signature.ErrInvalid}, // 2^64 + 42
		"pod out of range":    {set(podworks.HeaderPod, "4294967299"), signature.ErrInvalid},            // 2^32 + 3
		"epoch with a sign":   {set(podworks.HeaderEpoch, "+7"), signature.ErrInvalid},
		"epoch with a zero":   {set(podworks.HeaderEpoch, "07"), signature.ErrInvalid},
		"empty signature":     {set(podworks.HeaderSignature, ""), signature.ErrInvalid},
		"signature without parts": {
			set(podworks.HeaderSignature, "v1"), signature.ErrInvalid},
		"another version": {
			func(h http.Header) { set(podworks.HeaderSignature, "v2.1800000000."+mac(h))(h) }, signature.ErrInvalid},
		"another time": {
			func(h http.Header) { set(podworks.HeaderSignature, "v1.1800000001."+mac(h))(h) }, signature.ErrInvalid},
		"signature cut short": {
			func(h http.Header) { h[podworks.HeaderSignature][0] = h.Get(podworks.HeaderSignature)[:40] }, signature.ErrInvalid},
		"signature made longer": {
			func(h http.Header) { h[podworks.HeaderSignature][0] += "=" }, signature.ErrInvalid},
		"signature of another spelling": { // the last character has two bits to spare
			func(h http.Header) {
				s := h.Get(podworks.HeaderSignature)
				h.Set(podworks.HeaderSignature, s[:len(s)-1]+string(s[len(s)-1]+1))
			}, signature.ErrInvalid},
		"digits moved from one header to the next": {
			func(h http.Header) { h.Set(podworks.HeaderShop, "4"); h.Set(podworks.HeaderPod, "23") }, signature.ErrInvalid},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := signed(route)
			tt.change(h)
			got, err := signature.Verify(h, key, now)
			if !errors.Is(err, tt.want) {
				t.Errorf("Verify = %v, want %v", err, tt.want)
			}
			if got != (podworks.Route{}) {
				t.Errorf("Verify = %+v with the error, want no route", got)
			}
		})
	}
}

func TestVerifyRefusesAnotherKey(t *testing.T) {
	t.Parallel()
	other := bytes.Clone(key)
	other[len(other)-1] ^= 1
	if _, err := signature.Verify(signed(route), other, now); !errors.Is(err, signature.ErrInvalid) {
		t.Errorf("Verify = %v, want ErrInvalid", err)
	}
}

func TestVerifyRefusesAShortKeyWhateverWasSignedWithIt(t *testing.T) {
	t.Parallel()
	for _, short := range [][]byte{nil, {}, key[:signature.MinKey-1]} {
		h := make(http.Header)
		signature.Sign(h, short, route, now)
		if r, err := signature.Verify(h, short, now); err == nil {
			t.Errorf("Verify with a key of %d bytes = %+v, want an error", len(short), r)
		}
	}
}

func TestCheckKeySaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	if err := signature.CheckKey(key); err != nil {
		t.Errorf("CheckKey of %d bytes = %v, want nil", len(key), err)
	}
	err := signature.CheckKey(key[:5])
	if want := "signature: key has 5 bytes, want 32 or more"; err == nil || err.Error() != want {
		t.Errorf("CheckKey = %v, want %q", err, want)
	}
}

func TestASignatureHoldsForTheWindowAndNoLonger(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		later time.Duration
		valid bool
	}{
		{0, true},
		{signature.Window, true},
		{-signature.Window, true},
		{signature.Window + time.Second, false},
		{-signature.Window - time.Second, false},
		{1000 * time.Hour, false},
	} {
		_, err := signature.Verify(signed(route), key, now.Add(tt.later))
		if valid := err == nil; valid != tt.valid {
			t.Errorf("%v after signing: Verify = %v, want valid %t", tt.later, err, tt.valid)
		}
	}
}

func TestStripRemovesEverySpellingAndNothingElse(t *testing.T) {
	t.Parallel()
	h := signed(route)
	for _, name := range []string{"x-podworks-shop", "X_podworks_shop", "X-PODWORKS-Future", "X-Podworks-", "x-podworks_Epoch"} {
		h[name] = []string{"1"}
	}
	keep := http.Header{
		"Cookie":        {"a=b"},
		"X-Podworks":    {"1"}, // no name of ours
		"X-Podworkshop": {"1"},
		"Podworks-Shop": {"1"},
		"":              {"1"},
	}
	maps.Copy(h, keep)
	if !signature.Present(h) {
		t.Error("Present before Strip = false, want true")
	}
	signature.Strip(h)
	if !maps.EqualFunc(h, keep, slices.Equal) {
		t.Errorf("Strip left %v, want %v", h, keep)
	}
	if signature.Present(h) {
		t.Error("Present after Strip = true, want false")
	}
}

// Without the key there is one way to headers that verify: those Sign wrote.
func FuzzVerify(f *testing.F) {
	h := signed(route)
	sig := h.Get(podworks.HeaderSignature)
	f.Add("42", "3", "7", sig, "")
	f.Add("42", "3", "7", sig, "42")
	f.Add("+42", "03", "7", sig, "")
	f.Add("42", "3", "7", "v1..", "")
	f.Add("42", "3", "7", "v1.-9223372036854775808.", "")
	f.Add("", "", "", "", "")
	f.Fuzz(func(t *testing.T, shop, pod, epoch, sig, second string) {
		h := http.Header{
			podworks.HeaderShop:      {shop},
			podworks.HeaderPod:       {pod},
			podworks.HeaderEpoch:     {epoch},
			podworks.HeaderSignature: {sig},
		}
		if second != "" {
			h.Add(podworks.HeaderShop, second)
		}
		r, err := signature.Verify(h, key, now)
		if err != nil {
			if r != (podworks.Route{}) {
				t.Errorf("Verify = %+v with error %v, want no route", r, err)
			}
			if !errors.Is(err, signature.ErrInvalid) {
				t.Errorf("Verify = %v, want ErrInvalid", err)
			}
			return
		}
		if want := signed(r); !maps.EqualFunc(h, want, slices.Equal) {
			t.Errorf("%v verified as %+v, but that is signed as %v", h, r, want)
		}
	})
}

// Whatever route is signed, it verifies, and no other does with its signature.
func FuzzSign(f *testing.F) {
	f.Add(int64(42), int32(3), uint64(7), int64(43), int32(3), uint64(7))
	f.Add(int64(-1), int32(-1), uint64(math.MaxUint64), int64(1), int32(1), uint64(1))
	f.Fuzz(func(t *testing.T, shop int64, pod int32, epoch uint64, shop2 int64, pod2 int32, epoch2 uint64) {
		r := podworks.Route{Shop: podworks.ShopID(shop), Pod: podworks.PodID(pod), Epoch: podworks.Epoch(epoch)}
		other := podworks.Route{Shop: podworks.ShopID(shop2), Pod: podworks.PodID(pod2), Epoch: podworks.Epoch(epoch2)}
		h := signed(r)
		got, err := signature.Verify(h, key, now)
		if whole := shop != 0 && pod != 0 && epoch != 0; whole != (err == nil) {
			t.Fatalf("Verify(Sign(%+v)) = %v, want valid %t", r, err, whole)
		}
		if err == nil && got != r {
			t.Fatalf("Verify(Sign(%+v)) = %+v", r, got)
		}
		if other == r {
			return
		}
		h2 := signed(other)
		h2[podworks.HeaderSignature] = h[podworks.HeaderSignature]
		if got, err := signature.Verify(h2, key, now); err == nil {
			t.Fatalf("the signature of %+v verified as %+v", r, got)
		}
	})
}

func BenchmarkSign(b *testing.B) {
	b.ReportAllocs()
	h := make(http.Header)
	for b.Loop() {
		signature.Sign(h, key, route, now)
	}
}

func BenchmarkVerify(b *testing.B) {
	b.ReportAllocs()
	h := signed(route)
	for b.Loop() {
		if _, err := signature.Verify(h, key, now); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkStrip(b *testing.B) {
	b.ReportAllocs()
	h := make(http.Header)
	for i := range 12 {
		h.Set(fmt.Sprintf("Header-%d", i), "value")
	}
	for b.Loop() {
		signature.Strip(h)
	}
}
