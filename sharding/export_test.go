package sharding

import "time"

// SetPatience changes how long the end of a transaction may take.
func (c *Cluster) SetPatience(d time.Duration) { c.patience = d }

// SwitchOff switches a protection off, before the cluster is used.
func (c *Cluster) SwitchOff(protection string) {
	switch protection {
	case "":
	case "lock":
		c.off.lock = true
	case "epoch":
		c.off.epoch = true
	case "owner":
		c.off.owner = true
	case "readOnly":
		c.off.readOnly = true
	default:
		panic("there is no protection " + protection)
	}
}
