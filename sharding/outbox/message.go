package outbox

import (
	"time"

	"github.com/podworks/podworks"
)

// A Message is what Add wrote.
type Message struct {
	// ID is unique over all pods and the same at every attempt: the receiver's key
	// to duplicates. It is 26 letters and digits.
	ID string

	Shop  podworks.ShopID
	Pod   podworks.PodID // that has the row, which after a move isn't the shop's
	Epoch podworks.Epoch // of the shop at Add

	// Seq is the number of the row. For one shop (Epoch, Seq) grows from message to
	// message, as far as their order is promised.
	Seq uint64

	Topic   string
	Payload []byte
	Created time.Time // at Add, in UTC by the pod's clock
	Attempt int       // 1 for the first; an attempt that a process did not survive doesn't count
}

// What a message may hold. A payload that needs more belongs in a table of the
// shop, and its key in the message.
const (
	MaxTopic   = 255     // bytes
	MaxPayload = 1 << 20 // bytes
)
