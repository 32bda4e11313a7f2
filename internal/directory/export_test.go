package directory

// OffJournal lets a shop be closed while it is moved, and moved while it is closed.
const OffJournal = offJournal
