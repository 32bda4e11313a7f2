package ferry

// The names that hook.Step hears.
var (
	Steps  = steps
	Phases = phases
)

// OffFew has few rows written apart from the rest of a batch, too.
const OffFew = offFew

// OffGroups has each part of a wave written in a transaction of its own.
const OffGroups = offGroups

// OffMany has few touched rows be too many to remember.
const OffMany = offMany

// OffClaim switches off what keeps two processes from beginning the same job.
const OffClaim = offClaim
