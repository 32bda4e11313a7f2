/* The copy and the tail of a move: which rows the target has at the marker under
 * the lock. ../apply.go has the argument in words.
 *
 * A table of two keys. A row is 0 (there is none) or a version and the bit that
 * says it is the moving shop's; the other shop's rows stay where they are.
 * Writers change the source CHANGES times in any way; each change is one event
 * in the log, with both images. The mover reads the log and, a key at a time and
 * without locks, the table: between a marker L and a marker H, and of what it
 * read it drops what an event between the two named. What is applied up to a
 * place in the log, and that place, are written in one transaction; a mover that
 * dies is followed by one that goes on from there.
 *
 *	CHANGES=n  DEATHS=n
 */
#ifndef CHANGES
#define CHANGES 3
#endif
#ifndef DEATHS
#define DEATHS 0
#endif
#define KEYS 2
#define LOG  (CHANGES + 2 * KEYS + 2 * DEATHS)
#define NOKEY 7

#define OURS(v) ((v) & 1)

byte source[KEYS], target[KEYS];

/* The log: the old key and image, the new key and image; or a marker's number. */
byte oldKey[LOG], oldRow[LOG], newKey[LOG], newRow[LOG], marker[LOG];
byte length, markers;

byte changes = CHANGES, deaths = DEATHS;
bool locked;          /* by the mover, exclusively: writers wait */

/* On the target, in the transactions that write its rows. */
byte position;        /* events applied */
byte copied;          /* keys copied */

#define EVENT(ok, or, nk, nr) \
	oldKey[length] = ok; oldRow[length] = or; newKey[length] = nk; newRow[length] = nr; length++; changes--

/* Versions differ, so that a row of an earlier one is seen to be wrong. */
#define VERSION ((CHANGES - changes + 2) << 1)

proctype Writer() {
	byte k, old, new;
	do
	:: changes > 0 ->
		if :: k = 0 :: k = 1 fi;
		if
		/* insert, of either shop */
		:: d_step { !locked && source[k] == 0 -> new = VERSION | 1; source[k] = new; EVENT(NOKEY, 0, k, new) }
		:: d_step { !locked && source[k] == 0 -> new = VERSION; source[k] = new; EVENT(NOKEY, 0, k, new) }
		/* update */
		:: d_step { !locked && source[k] -> old = source[k]; new = VERSION | OURS(old); source[k] = new; EVENT(k, old, k, new) }
		/* the row enters or leaves the shop */
		:: d_step { !locked && source[k] -> old = source[k]; new = VERSION | (1 - OURS(old)); source[k] = new; EVENT(k, old, k, new) }
		/* its key changes */
		:: d_step { !locked && source[k] && source[1 - k] == 0 ->
			old = source[k]; new = VERSION | OURS(old); source[k] = 0; source[1 - k] = new; EVENT(k, old, 1 - k, new) }
		:: d_step { !locked && source[k] -> old = source[k]; source[k] = 0; EVENT(k, old, NOKEY, 0) }
		fi;
		d_step { k = 0; old = 0; new = 0 }
	:: changes == 0 -> break
	od
}

/* Applies event number position to the target. */
#ifdef MUT_FILTER_NEW_IMAGE
#define GOES(i) (OURS(oldRow[i]) && (newKey[i] == NOKEY || OURS(newRow[i])))
#else
#define GOES(i) OURS(oldRow[i])
#endif
#ifdef MUT_NO_EVENT_AHEAD
#define REACHED(k) ((k) < copied)
#else
#define REACHED(k) true
#endif

inline apply(i) {
	if
	:: marker[i] == 0 ->
#ifdef MUT_UPDATE_ONLY
		/* UPDATE … WHERE key = the new one, which is not there. */
		if
		:: oldKey[i] != NOKEY && newKey[i] != NOKEY && oldKey[i] != newKey[i] && OURS(oldRow[i]) && OURS(newRow[i]) ->
			target[newKey[i]] = (target[newKey[i]] -> newRow[i] : 0)
		:: else ->
#endif
		if :: oldKey[i] != NOKEY && GOES(i) && REACHED(oldKey[i]) -> target[oldKey[i]] = 0 :: else fi;
		if :: newKey[i] != NOKEY && OURS(newRow[i]) && REACHED(newKey[i]) -> target[newKey[i]] = newRow[i] :: else fi
#ifdef MUT_UPDATE_ONLY
		fi
#endif
	:: else
	fi
}

/* An event between L and H names the chunk's key. */
#define NAMES(i) (marker[i] == 0 && ((oldKey[i] == k && OURS(oldRow[i])) || (newKey[i] == k && OURS(newRow[i]))))
#define NEXT \
	passed = passed || (low && marker[position] == low); \
	named = named || (passed && NAMES(position)); \
	apply(position); \
	oldKey[position] = 0; oldRow[position] = 0; newKey[position] = 0; newRow[position] = 0; marker[position] = 0; \
	position++

/* Its lock and what it has in memory go with it. */
#ifdef MUT_POSITION_BEFORE_ROWS
#define HALF position = (position < length -> position + 1 : position);
#else
#define HALF
#endif
#define DIES d_step { deaths > 0 -> deaths--; HALF locked = false; k = 0; row = 0; passed = false; named = false; low = 0; high = 0 } goto again

/* Reads a chunk and applies the log, in any order that the markers allow: the
 * chunk may be read before or after any event is applied. */
proctype Mover() {
	byte k, row, low, high;
	bool passed, named;
again:
	do
	:: copied < KEYS ->
		d_step { k = copied; markers++; marker[length] = markers; low = markers; length++ };
		do
		:: d_step { position < length -> NEXT }
		:: break
		:: DIES
		od;
		row = (OURS(source[k]) -> source[k] : 0);
		do
		:: d_step { position < length -> NEXT }
		:: break
		:: DIES
		od;
		atomic { markers++; marker[length] = markers; high = markers; length++ };
		/* Up to H, and with it the chunk's row, unless an event has brought a later one. */
		do
		:: d_step { position < length && marker[position] != high -> NEXT }
		:: d_step { position < length && marker[position] == high ->
#ifdef MUT_CHUNK_WINS
			target[k] = row;
#else
			target[k] = (named -> target[k] : row);
#endif
			marker[position] = 0; position++; copied++; k = 0; row = 0; passed = false; named = false; low = 0; high = 0 }
			break
		:: DIES
		od
	:: copied == KEYS ->
		/* What is before the last marker, which is written under the lock. */
		locked = true;
		do
		:: d_step { position < length -> NEXT }
		:: position == length -> break
		:: DIES
		od;
		break
	od;
	atomic {
		assert(target[0] == (OURS(source[0]) -> source[0] : 0));
		assert(target[1] == (OURS(source[1]) -> source[1] : 0))
	}
}

init {
	atomic {
		/* Any rows to begin with. */
		if :: source[0] = 0 :: source[0] = 2 :: source[0] = 3 fi;
		if :: source[1] = 0 :: source[1] = 2 :: source[1] = 3 fi;
		run Writer();
		run Mover()
	}
}
