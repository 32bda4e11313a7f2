package ferry

// The transitions of the protocol in DESIGN.md, and of its model in spec: what a
// mover, a recoverer and a clean-up do to the rows that others look at. Each is
// one transaction, or one look that a later one rests on. Whoever makes one
// passes its pause point just before, where tests stop, kill or freeze it.
var steps = []string{
	"claim",    // the journal row
	"incoming", // the target's fence row
	"apply",    // rows to the target, with the place in the log
	"note",     // both pods' epochs
	"lock",     // the source's fence row, exclusively
	"marker",   // into the source's log, and waited for
	"look",     // at the journal, under the lock
	"close",    // the source's fence row
	"decide",   // in the directory
	"open",     // the target's fence row
	"finish",   // the journal row

	"recover.read",      // both fence rows and the route
	"recover.decide",    // what the mover closed
	"recover.abort",     // the journal row: no decision after this
	"recover.reopen",    // the source's fence row
	"recover.tombstone", // the target's fence row
	"recover.delete",    // the copy
	"recover.close",     // the source's fence row, whose close a failover lost
	"recover.claim",     // a new token for a copy that a failover lost
	"recover.verified",  // the new token's copy
	"recover.open",      // the target's fence row
	"recover.finish",    // the journal row

	"clean.check",  // the source's fence row and the journal
	"clean.delete", // rows of the source
}

// phases are the other names that every move's hook.Step hears: where the mover is, as
// the journal and Progress say it, and before that where its hub is, which asks for the
// end of the source's log. A raised counter, a queue and the tripwire have their own.
var phases = []string{"hub", "copy", "compare", "verify", "prepare", "rehearse", "cutover", "drain", "verified", "closed", "decided", "opened", "prove", standby}
