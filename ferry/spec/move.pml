/* A move of one shop between two pods: the protocol of ../DESIGN.md.
 *
 * One text; each check compiles it with other processes and faults (spec_test.go
 * has the list, README.md says what is modelled and what isn't). A step of the
 * code is one atomic action here, labelled step_<name>, where <name> is the
 * code's pause point with _ for the dot: a process may stop for any time, or for
 * ever, before each of them. MUT_… macros switch one rule off each.
 *
 *	WRITERS=n  TXS=n       writing processes, transactions of each
 *	MOVERS=n               processes that move the shop from pod 0 to pod 1
 *	BACK                   another one that moves it from pod 1 to pod 0
 *	RECOVERERS=n           processes that settle unfinished moves
 *	CLEANERS=n             processes that delete what a shop left behind
 *	DEATHS CUTS CRASHES    how many processes may die, sessions be cut (with
 *	                       the answer to a COMMIT in flight), servers restart
 *	FAIL_SRC FAIL_DST      podmovers that fail pod 0 or 1 over to a replica that
 *	                       lacks any suffix of the transactions
 *	FAIL_MASTER            the same for the master
 */
#ifndef WRITERS
#define WRITERS 1
#endif
#ifndef TXS
#define TXS 1
#endif
#ifndef MOVERS
#define MOVERS 1
#endif
#ifndef RECOVERERS
#define RECOVERERS 1
#endif
#ifndef CLEANERS
#define CLEANERS 0
#endif
#ifndef DEATHS
#define DEATHS 0
#endif
#ifndef CUTS
#define CUTS 0
#endif
#ifndef CRASHES
#define CRASHES 0
#endif
#ifndef FAIL_SRC
#define FAIL_SRC 0
#endif
#ifndef FAIL_DST
#define FAIL_DST 0
#endif

#define ABSENT   0 /* states of a fence row */
#define INCOMING 1
#define OPEN     2
#define MOVED    3

#define NONE     0 /* states of the journal row; NONE: there is no unfinished move */
#define RUNNING  1
#define ABORTING 2
#define DECIDED  3

/* Who holds locks for longer than one action. */
#define WRITER(i) (i)
#define MOVER(i)  (4 + (i))
#define BIT(i)    (1 << (i))

/* A pod: its primary's committed state. A transaction's uncommitted writes are
 * local variables of who runs it, and its life is its lock: a session that ends
 * takes the lock away, and the COMMIT finds that. */
byte state[2], epoch[2], token[2]; /* the fence row; its destination is the other pod */
byte rows[2];                      /* the shop's rows: a bit for each write */
byte own[2];                       /* of them those that writers committed here */
byte shared[2];                    /* who holds the shared lock, bits */
byte exclusive[2];                 /* who holds the exclusive one, plus 1 */
bool accepts[2];                   /* not read_only */
byte promoted[2];                  /* the failover's pod epoch, in a row of the pod itself */
bool lagging[2];                   /* its replica is stopped, and lacks what is committed since */

/* The master: directory and journal. */
byte pod, shopEpoch, lastToken;    /* the shop's route, and which move made it */
byte podEpoch[2]; bool serving[2];
byte jState, jToken, jFrom, jEpoch, jVerified, jNoted[2];
byte tokens;                       /* the counter */
bool master = true;                /* it answers */

/* What is checked. */
byte acked;    /* writes whose COMMIT was answered */
byte lost;     /* writes that a lossy failover of their pod took with it */
byte tried;    /* writes that were sent, so that nobody runs one twice */
bool failed[2]; /* a lossy failover of the pod has happened */

byte deaths = DEATHS, cuts = CUTS, crashes = CRASHES;
byte dead;     /* processes that died, bits: the server ends their sessions */
byte ended;    /* writers that have returned to their callers */

#define WRITABLE(p) (state[p] == OPEN && accepts[p])
#ifdef MUT_EPOCH_NOT_COMPARED
#define OPENTO(p, e) (state[p] == OPEN)
#else
#define OPENTO(p, e) (state[p] == OPEN && epoch[p] == e)
#endif
#define SHARE(p)    (accepts[p] && exclusive[p] == 0)
#define ALONE(p)    (accepts[p] && exclusive[p] == 0 && shared[p] == 0)
#define ROW(p, s, e, t) state[p] = s; epoch[p] = e; token[p] = t
#define MOVEDBY(p, t, e) (state[p] == MOVED && token[p] == t && epoch[p] == e)
#define ONEOWNER    assert(!(WRITABLE(0) && WRITABLE(1)))
#define NONELOST(p) assert((acked & ~lost & ~rows[p]) == 0)
#define DIES        d_step { deaths > 0 -> deaths--; dead = dead | BIT(me) } goto gone
#define HOLDS(p)    (exclusive[p] == me + 1)
#define UNLOCK(p)   exclusive[p] = (HOLDS(p) -> 0 : exclusive[p])

/* ------------------------------------------------------------- writers --- */

proctype Writer(byte me) {
	byte p = 0, e = 1; /* the route as it was heard of last */
	byte k = 0;
	do
	:: k < TXS ->
begin:
		/* The first statement: the shared lock, and what the row says. */
		if
#ifdef MUT_UNFENCED_WRITE
		:: atomic { k == TXS - 1 && state[p] == OPEN && accepts[p] && epoch[p] == e -> skip }
			goto commit
#endif
		:: atomic { SHARE(p) && OPENTO(p, e) -> shared[p] = shared[p] | BIT(me) }
		/* ErrMoved, at some time: asks the directory and begins again. A route that
		 * is refused and current is waited for. */
		:: atomic { master && (pod != p || shopEpoch != e) && !WRITABLE(p) -> p = pod; e = shopEpoch }
			goto begin
		:: atomic { master && (pod != p || shopEpoch != e) && WRITABLE(p) && epoch[p] != e -> p = pod; e = shopEpoch }
			goto begin
		:: DIES
		fi;
#ifdef MUT_XA_WRITER
		/* XA PREPARE: the rows stay, the shared lock doesn't. */
		atomic { (shared[p] & BIT(me)) -> shared[p] = shared[p] & ~BIT(me) }
#endif
commit:
		if
		:: atomic {
#if defined(MUT_XA_WRITER)
			accepts[p] ->
#elif defined(MUT_UNFENCED_WRITE)
			(shared[p] & BIT(me)) || (k == TXS - 1 && accepts[p]) ->
#else
			(shared[p] & BIT(me)) ->
			assert(epoch[p] == e && state[p] == OPEN);
#endif
			assert((rows[p] & BIT(me * TXS + k)) == 0); /* once */
			rows[p] = rows[p] | BIT(me * TXS + k);
			own[p] = own[p] | BIT(me * TXS + k);
			shared[p] = shared[p] & ~BIT(me);
			if
			:: acked = acked | BIT(me * TXS + k)
			:: cuts > 0 -> cuts--; /* the answer is lost: the outcome is unknown */
#ifdef MUT_RETRY_UNKNOWN
				goto begin
#endif
			fi }
#if !defined(MUT_XA_WRITER) && !defined(MUT_UNFENCED_WRITE)
		:: atomic { !(shared[p] & BIT(me)) -> skip } /* the session is gone. Before COMMIT: runs again */
			goto begin
		:: atomic { !(shared[p] & BIT(me)) && CUTS + CRASHES > 0 -> skip } /* under COMMIT: unknown */
#endif
		:: DIES
		fi;
		k++
	:: else -> break
	od;
gone:
	ended++
}

/* -------------------------------------------------------------- movers --- */

/* T is a move's token, from its source, e the shop's epoch there. */
#define MINE(T)         (jState == RUNNING && jToken == T)
#define CARRIES(p, T)   (state[p] == INCOMING && token[p] == T)
#define CLOSED(T)       (state[from] == MOVED && token[from] == T && epoch[from] == e)
/* Closed by the move with T or by an earlier one, which T has replaced. */
#ifdef MUT_REOPEN_ONLY_ITS_OWN
#define UNDONE(T)       CLOSED(T)
#else
#define UNDONE(T)       (state[from] == MOVED && token[from] <= T && epoch[from] == e)
#endif
#ifdef MUT_DECIDE_WITHOUT_POD_EPOCHS
#define NOTED           true
#else
#define NOTED           (jNoted[0] == podEpoch[0] && jNoted[1] == podEpoch[1])
#endif
#ifdef MUT_DECIDE_WITHOUT_JOURNAL
#define STILL(T)        (jToken == T)
#else
#define STILL(T)        MINE(T)
#endif
#define DECIDABLE(T)    (STILL(T) && pod == from && shopEpoch == e && NOTED)
#define DECIDE(T)       pod = 1 - from; shopEpoch = e + 1; lastToken = T; jState = DECIDED; jVerified = T; \
			assert(!WRITABLE(from))
#define OPENAT(p, T)    ROW(p, OPEN, e + 1, T); ONEOWNER; NONELOST(p); \
			assert(rows[p] == rows[1 - p] || failed[1 - p])
/* The open row is on the target's replica too. */
#define REPLICATED(p)   (accepts[p] && state[p] == OPEN && epoch[p] == e + 1 && REPLICA(p))
#ifdef MUT_FINISH_BEFORE_REPLICA
#define REPLICA(p)      true
#else
#define REPLICA(p)      !lagging[p]
#endif
#define RETIRE          jState = NONE; jToken = 0; jFrom = 0; jEpoch = 0; jVerified = 0; jNoted[0] = 0; jNoted[1] = 0

#ifdef MUT_NOTE_WHILE_FAILING_OVER
#define SERVING         true
#else
#define SERVING         (serving[0] && serving[1])
#endif

proctype Mover(byte me; byte from) {
	byte T, e, copy;
	byte to = 1 - from;
	if
	:: d_step { master && jState == NONE && pod == from ->
step_claim:	tokens++; T = tokens; e = shopEpoch;
		jState = RUNNING; jToken = T; jFrom = from; jEpoch = e }
#if MOVERS > 1
	/* A silent move of the shop to the same pod is taken over: its token is
	 * retired in the transaction that gives out the next one. It may have closed
	 * the source just before. */
	:: d_step { master && jState == RUNNING && jFrom == from ->
		tokens++; T = tokens; e = shopEpoch;
		jToken = T; jNoted[0] = 0; jNoted[1] = 0 }
		if
		:: d_step { ALONE(from) && UNDONE(T) -> ROW(from, OPEN, e, T); ONEOWNER }
		:: SHARE(from) && !UNDONE(T)
		:: DIES
		fi
#endif
	:: DIES
	fi;
	if
	:: d_step { ALONE(to) && state[to] != OPEN && token[to] < T ->
step_incoming:	ROW(to, INCOMING, 0, T) }
	:: d_step { ALONE(to) && !(state[to] != OPEN && token[to] < T) -> skip } goto fail
	:: DIES
	fi;
	/* The copy and the tail: what was committed on the source at some time. */
	d_step { accepts[from] -> copy = rows[from] };
	if
#ifdef MUT_APPLY_WITHOUT_TOKEN
	:: d_step { SHARE(to) -> rows[to] = copy; copy = 0 }
#else
	:: d_step { SHARE(to) && CARRIES(to, T) ->
step_apply:	rows[to] = copy; own[to] = 0; copy = 0 }
	:: d_step { SHARE(to) && !CARRIES(to, T) -> skip } goto fail
#endif
	:: DIES
	fi;
	if
	:: d_step { master && MINE(T) && SERVING ->
step_note:	jNoted[0] = podEpoch[0]; jNoted[1] = podEpoch[1] }
	:: d_step { master && !MINE(T) -> skip } goto fail
	:: DIES
	fi;
	if
	:: d_step { ALONE(from) && state[from] == OPEN && epoch[from] == e ->
step_lock:	exclusive[from] = me + 1 }
	:: d_step { ALONE(from) && !(state[from] == OPEN && epoch[from] == e) -> skip } goto fail
	:: DIES
	fi;
#ifndef MUT_SKIP_MARKER
	/* The marker is behind every event of the shop: what is before it is applied,
	 * and compared both ways. */
	if
	:: d_step { accepts[from] ->
step_marker:	copy = rows[from] }
	:: DIES
	fi;
	if
	:: d_step { SHARE(to) && CARRIES(to, T) -> rows[to] = copy; own[to] = 0; copy = 0 }
	:: d_step { SHARE(to) && !CARRIES(to, T) -> UNLOCK(from) } goto fail
	:: DIES
	fi;
#endif
	if
#ifdef MUT_NO_LOOK_UNDER_LOCK
	:: skip
#else
	:: d_step { master && MINE(T) ->
step_look:	skip }
	/* Not mine, or no answer within the budget. */
	:: d_step { !master || !MINE(T) -> UNLOCK(from) } goto fail
#endif
	:: DIES
	fi;
#ifndef NO_REPLICA_OF_COPY
	/* The target's replica has the verified copy. */
	if
	:: accepts[to] && CARRIES(to, T) && !lagging[to]
	:: d_step { !accepts[to] || !CARRIES(to, T) || lagging[to] -> UNLOCK(from) } goto fail
	:: DIES
	fi;
#endif
#ifdef MUT_OPEN_BEFORE_DECIDE
	d_step { ALONE(to) && CARRIES(to, T) -> ROW(to, OPEN, e + 1, T) };
#endif
	if
	:: d_step { HOLDS(from) ->
step_close:	ROW(from, MOVED, e, T); exclusive[from] = 0 }
		goto decide
	/* The answer is lost, with the commit done or not; or the session was gone. */
	:: d_step { HOLDS(from) && cuts > 0 -> cuts--; ROW(from, MOVED, e, T); exclusive[from] = 0 }
	:: d_step { HOLDS(from) && cuts > 0 -> cuts--; exclusive[from] = 0 }
	:: !HOLDS(from)
	:: DIES
	fi;
	/* A new session looks, behind whoever has the row's lock. */
	if
	:: SHARE(from) && CLOSED(T)
	:: d_step { SHARE(from) && !CLOSED(T) -> skip } goto fail
	:: DIES
	fi;
decide:
	if
	:: d_step { master && DECIDABLE(T) ->
step_decide:	DECIDE(T) }
	:: master && jState == DECIDED && jVerified == T /* by a recoverer */
	:: d_step { master && !DECIDABLE(T) && !(jState == DECIDED && jVerified == T) -> skip } goto fail
	/* The answer is lost: it is asked again. */
	:: d_step { master && cuts > 0 && DECIDABLE(T) -> cuts--; DECIDE(T) }
#ifdef MUT_GUESS_DECIDE
		d_step { ALONE(from) && CLOSED(T) -> ROW(from, OPEN, e, T); ONEOWNER } goto fail
#else
		goto decide
#endif
	:: DIES
	fi;
	if
	:: d_step { ALONE(to) && CARRIES(to, T) ->
step_open:	OPENAT(to, T) }
	:: d_step { ALONE(to) && !CARRIES(to, T) -> skip } goto gone /* decided: a recoverer's */
	:: DIES
	fi;
	if
	:: REPLICATED(to)
	:: d_step { accepts[to] && !(state[to] == OPEN && epoch[to] == e + 1) -> skip } goto gone
	:: DIES
	fi;
	if
	:: d_step { master && jState == DECIDED && jVerified == T ->
step_finish:	RETIRE }
	:: d_step { master && !(jState == DECIDED && jVerified == T) -> skip } goto gone
	:: DIES
	fi;
	goto gone;
fail:
	/* A move that is running or decided is settled by a recoverer, or by this
	 * process as one. One that was aborted may be settled already: nobody else
	 * knows what this mover has closed or left behind since. */
	if
	:: master && ((jToken == T && jState != ABORTING) || shopEpoch != e)
	:: d_step { master && (jToken != T || jState == ABORTING) && shopEpoch == e -> skip }
		if
		:: d_step { ALONE(from) && CLOSED(T) -> ROW(from, OPEN, e, T); ONEOWNER; NONELOST(from) }
		:: SHARE(from) && !CLOSED(T)
		:: DIES
		fi;
		if
		:: d_step { ALONE(to) && CARRIES(to, T) -> ROW(to, ABSENT, 0, T); rows[to] = 0; own[to] = 0 }
		:: ALONE(to) && !CARRIES(to, T)
		:: DIES
		fi
	:: DIES
	fi;
gone:
	skip
}

/* ---------------------------------------------------------- recoverers --- */

/* Settles whatever unfinished move there is, its mover dead or not. One that
 * dies is followed by another that knows nothing of it. */
#undef DIES
#define DIES d_step { deaths > 0 -> deaths-- } goto again

proctype Recoverer() {
	byte T, e, from, to, copy;
again:
	T = 0; e = 0; from = 0; to = 0; copy = 0;
	if
	:: d_step { master && jState == RUNNING ->
step_recover_read: T = jToken; from = jFrom; to = 1 - from; e = jEpoch }
	:: d_step { master && jState == ABORTING -> T = jToken; from = jFrom; to = 1 - from; e = jEpoch } goto reopen
	:: d_step { master && jState == DECIDED -> T = jToken; from = jFrom; to = 1 - from; e = jEpoch } goto decided
	fi;
	/* A plain read of the source's row, which only says which way is shorter. */
	if
	:: accepts[from] && CLOSED(T)
	:: d_step { accepts[from] && !CLOSED(T) -> skip } goto abort
	:: DIES
	fi;
	if
	:: d_step { master && DECIDABLE(T) ->
step_recover_decide: DECIDE(T) }
		goto decided
	:: d_step { master && !DECIDABLE(T) -> skip }
	:: DIES
	fi;
abort:
	if
	:: d_step { master && MINE(T) ->
step_recover_abort: jState = ABORTING }
	:: master && jState == ABORTING && jToken == T
	:: d_step { master && jToken != T -> skip } goto again /* somebody settled it */
	:: d_step { master && jState == DECIDED && jToken == T -> skip } goto decided
	:: DIES
	fi;
reopen:
	/* A locking read: a mover that has the lock and is about to close is waited
	 * for. One that comes to the lock later looks at the journal. */
	if
	:: d_step { ALONE(from) && UNDONE(T) ->
step_recover_reopen: ROW(from, OPEN, e, T); ONEOWNER; NONELOST(from) }
#ifdef MUT_REOPEN_WITHOUT_LOCKING_READ
	:: accepts[from] && !UNDONE(T)
#else
	:: SHARE(from) && !UNDONE(T)
#endif
	:: DIES
	fi;
	if
#ifdef MUT_NO_TOMBSTONE
	:: skip
#else
	:: d_step { ALONE(to) && token[to] <= T && state[to] != OPEN && !(state[to] == MOVED && token[to] == T) ->
step_recover_tombstone: ROW(to, ABSENT, 0, T) }
	:: ALONE(to) && !(token[to] <= T && state[to] != OPEN && !(state[to] == MOVED && token[to] == T))
#endif
	:: DIES
	fi;
	if
	:: d_step { SHARE(to) && state[to] == ABSENT && token[to] == T ->
step_recover_delete: rows[to] = 0; own[to] = 0 }
	:: SHARE(to) && !(state[to] == ABSENT && token[to] == T)
	:: DIES
	fi;
	if
	:: d_step { master && jState == ABORTING && jToken == T -> RETIRE } goto again
	:: d_step { master && !(jState == ABORTING && jToken == T) -> skip } goto again
	:: DIES
	fi;
decided:
	if
	/* Not reached here: a failover closes such a row before it accepts writes. The
	 * code has it for failovers by others. */
	:: d_step { ALONE(from) && state[from] == OPEN && epoch[from] == e && jState == DECIDED && jFrom == from && jEpoch == e ->
step_recover_close: ROW(from, MOVED, e, jVerified) } goto again
	:: accepts[to] && state[to] == OPEN && epoch[to] == e + 1
		goto opened
	/* With the token whose copy was verified. */
	:: d_step { ALONE(to) && state[to] == INCOMING && token[to] == jVerified && jState == DECIDED && jFrom == from && jEpoch == e ->
step_recover_open: OPENAT(to, jVerified) }
		goto opened
	/* The row or its token went with a failover: a new token, and copied again. */
	:: d_step { master && accepts[to] && state[to] != OPEN && token[to] != jVerified && jState == DECIDED && jFrom == from && jEpoch == e ->
step_recover_claim: tokens++; T = tokens; jToken = T }
	:: d_step { master && accepts[to] && state[to] != OPEN && state[to] != INCOMING && token[to] == jVerified && jState == DECIDED && jFrom == from && jEpoch == e ->
		tokens++; T = tokens; jToken = T }
	:: d_step { master && !(jState == DECIDED && jFrom == from && jEpoch == e) -> skip } goto again
	:: DIES
	fi;
	if
	:: d_step { ALONE(to) && state[to] != OPEN && token[to] < T -> ROW(to, INCOMING, 0, T) }
	:: d_step { ALONE(to) && !(state[to] != OPEN && token[to] < T) -> skip } goto again
	:: DIES
	fi;
	d_step { accepts[from] -> copy = rows[from] };
	if
	:: d_step { SHARE(to) && CARRIES(to, T) -> rows[to] = copy; own[to] = 0; copy = 0 }
	:: d_step { SHARE(to) && !CARRIES(to, T) -> skip } goto again
	:: DIES
	fi;
	if
	:: d_step { master && jState == DECIDED && jToken == T ->
step_recover_verified: jVerified = T; lastToken = T } goto decided
	:: d_step { master && !(jState == DECIDED && jToken == T) -> skip } goto again
	:: DIES
	fi;
opened:
	if
	:: REPLICATED(to)
	:: d_step { accepts[to] && !(state[to] == OPEN && epoch[to] == e + 1) -> skip } goto again
	:: DIES
	fi;
	if
	:: d_step { master && jState == DECIDED && jFrom == from && jEpoch == e ->
step_recover_finish: RETIRE } goto again
	:: d_step { master && !(jState == DECIDED && jFrom == from && jEpoch == e) -> skip } goto again
	:: DIES
	fi
}

/* ------------------------------------------------------------ clean-up --- */

#ifdef MUT_CLEAN_BEFORE_FINISH
#define FINISHED(p)     true
#else
#define FINISHED(p)     (master && jState == NONE && pod != p)
#endif
#ifdef MUT_CLEAN_WITHOUT_CHECK
#define LEFTBY(p, t)    true
#else
#define LEFTBY(p, t)    (state[p] == MOVED && token[p] == t)
#endif

proctype Cleaner() {
	byte p, t;
	if
	:: p = 0
	:: p = 1
	fi;
	/* After the move has finished: until then its source is what the target is
	 * copied from again. */
	d_step { accepts[p] && state[p] == MOVED && FINISHED(p) ->
step_clean_check: t = token[p] };
	if
	:: d_step { SHARE(p) && LEFTBY(p, t) ->
step_clean_delete: rows[p] = 0; own[p] = 0 }
	:: SHARE(p) && !(state[p] == MOVED && token[p] == t)
	fi
}

/* -------------------------------------------------- servers, failovers --- */

/* Ends the sessions of the dead in the end, and others' now and then. A server
 * that restarts has ended them all. */
active proctype Server() {
	byte p;
end:	do
#ifndef MUT_NO_IDLE_TIMEOUT
	:: d_step { exclusive[0] && (dead & BIT(exclusive[0] - 1)) -> exclusive[0] = 0 }
	:: d_step { exclusive[1] && (dead & BIT(exclusive[1] - 1)) -> exclusive[1] = 0 }
#endif
	:: d_step { shared[0] & dead -> shared[0] = shared[0] & ~dead }
	:: d_step { shared[1] & dead -> shared[1] = shared[1] & ~dead }
#if CUTS > 0
	:: d_step { cuts > 0 && exclusive[0] -> cuts--; exclusive[0] = 0 }
	:: d_step { cuts > 0 && exclusive[1] -> cuts--; exclusive[1] = 0 }
	:: d_step { cuts > 0 && (shared[0] & BIT(0)) -> cuts--; shared[0] = shared[0] & ~BIT(0) }
	:: d_step { cuts > 0 && (shared[1] & BIT(0)) -> cuts--; shared[1] = shared[1] & ~BIT(0) }
#endif
#if CRASHES > 0
	:: d_step { crashes > 0 && (exclusive[0] || shared[0]) -> crashes--; exclusive[0] = 0; shared[0] = 0 }
	:: d_step { crashes > 0 && (exclusive[1] || shared[1]) -> crashes--; exclusive[1] = 0; shared[1] = 0 }
#endif
	od
}

#if FAIL_SRC + FAIL_DST > 0
/* What the replica of a pod has when its primary dies: any earlier state. */
byte rState[2], rEpoch[2], rToken[2], rRows[2], rOwn[2], rPromoted[2];

/* A decided move's copy, which is on every replica, is kept. Where nobody sees to
 * that (NO_REPLICA_OF_COPY) it has to be made again. */
#if defined(NO_REPLICA_OF_COPY) || defined(ALL_INCOMING_DIE)
#define KEEP false
#else
#define KEEP (vPod == p && vToken == token[p])
#endif

proctype Podmover(byte p; bool first) {
	byte mine, vPod, vEpoch, vToken;
	if
	:: first ->
		d_step { lagging[p] = true;
			rState[p] = state[p]; rEpoch[p] = epoch[p]; rToken[p] = token[p]; rRows[p] = rows[p]; rOwn[p] = own[p] };
#ifdef MUT_RECONCILE_BEFORE_RAISE
		d_step { master -> vPod = pod; vEpoch = shopEpoch; vToken = lastToken; mine = podEpoch[p] + 1 };
#endif
		/* The old primary is fenced, for good; with it go its sessions. */
fence_old:	d_step { accepts[p] = false; failed[p] = true; lagging[p] = false; exclusive[p] = 0; shared[p] = 0;
			lost = (pod == p -> lost | (own[p] & rows[p] & ~rRows[p]) : lost);
			state[p] = rState[p]; epoch[p] = rEpoch[p]; token[p] = rToken[p]; rows[p] = rRows[p]; own[p] = rOwn[p];
			rState[p] = 0; rEpoch[p] = 0; rToken[p] = 0; rRows[p] = 0; rOwn[p] = 0 }
	:: else -> failed[p]
	fi;
#ifndef MUT_RECONCILE_BEFORE_RAISE
raise:	d_step { master -> podEpoch[p]++; mine = podEpoch[p]; serving[p] = false };
	d_step { master -> vPod = pod; vEpoch = shopEpoch; vToken = lastToken };
#endif
	d_step { promoted[p] < mine -> promoted[p] = mine };
reconcile:
	d_step {
		if
#ifndef MUT_RECONCILE_WITHOUT_ITS_EPOCH
		:: promoted[p] != mine -> skip
#endif
		:: state[p] == OPEN && (vPod != p || vEpoch > epoch[p]) -> ROW(p, MOVED, epoch[p], vToken)
#ifndef MUT_RECONCILE_KEEPS_OLD_TOKEN
		/* Closed by an aborted move, and since by the one that was decided, which is
		 * lost: who is late with undoing the aborted one must not find its token. */
		:: state[p] == MOVED && vPod != p && token[p] != vToken -> ROW(p, MOVED, epoch[p], vToken)
#endif
		:: state[p] == MOVED && vPod == p && vEpoch == epoch[p] -> ROW(p, OPEN, epoch[p], token[p])
		:: state[p] == INCOMING && !KEEP -> ROW(p, ABSENT, 0, token[p])
		:: else
		fi };
#ifdef MUT_RECONCILE_BEFORE_RAISE
	d_step { master -> podEpoch[p]++; serving[p] = false };
#endif
	d_step { promoted[p] == mine -> accepts[p] = true; ONEOWNER };
	d_step { master -> serving[p] = (podEpoch[p] == mine -> true : serving[p]) }
}
#endif

#ifdef FAIL_MASTER
byte mPod, mEpoch, mLast, mState, mToken, mFrom, mAt, mVerified, mNoted[2];
#ifdef MUT_TOKENS_COME_BACK
byte mTokens;
#endif

/* The master's primary dies; its replica has any earlier state of it. Who heard
 * an answer of the lost one acts on it: a mover that knows it has decided, a
 * recoverer that knows it has aborted. */
proctype Masterfail() {
	byte fresh, p;
	d_step { mPod = pod; mEpoch = shopEpoch; mLast = lastToken; mState = jState; mToken = jToken; mFrom = jFrom;
		mAt = jEpoch; mVerified = jVerified; mNoted[0] = jNoted[0]; mNoted[1] = jNoted[1]
#ifdef MUT_TOKENS_COME_BACK
		; mTokens = tokens
#endif
	};
	d_step { master = false;
		pod = mPod; shopEpoch = mEpoch; lastToken = mLast; jState = mState; jToken = mToken; jFrom = mFrom;
		jEpoch = mAt; jVerified = mVerified; jNoted[0] = mNoted[0]; jNoted[1] = mNoted[1];
#ifdef MUT_TOKENS_COME_BACK
		tokens = mTokens; mTokens = 0;
#endif
		mPod = 0; mEpoch = 0; mLast = 0; mState = 0; mToken = 0; mFrom = 0; mAt = 0; mVerified = 0; mNoted[0] = 0; mNoted[1] = 0 };
#ifdef MUT_MASTER_HIGHEST_OPEN_ONLY
	d_step {
		p = (epoch[1] > epoch[0] -> 1 : 0);
		p = (state[p] == OPEN -> p : 1 - p);
		if
		:: state[p] == OPEN && epoch[p] > shopEpoch -> pod = p; shopEpoch = epoch[p];
			if :: jState == RUNNING && jFrom != p -> jState = DECIDED; jVerified = token[p]; lastToken = token[p] :: else fi
		:: else
		fi };
#else
	/* Every row that is not open gets a token of the new master's first, each
	 * under its lock: what was decided or aborted in the lost time can't be acted
	 * on any more. Only then does who is open say who owns. */
	d_step { tokens++; fresh = tokens };
	p = 0;
	do
	:: p < 2 ->
		d_step { ALONE(p) ->
			if
			:: state[p] == MOVED -> token[p] = fresh
			:: state[p] == ABSENT || state[p] == INCOMING -> ROW(p, ABSENT, 0, fresh)
			:: else
			fi };
		p++
	:: else -> break
	od;
	/* Nobody open: the last owner is, with an epoch above that of a lost decision. */
	p = (epoch[1] > epoch[0] -> 1 : 0);
	p = (state[p] == OPEN || state[1 - p] != OPEN -> p : 1 - p);
	if
	:: d_step { ALONE(p) && state[p] == MOVED -> ROW(p, OPEN, epoch[p] + 2, fresh); ONEOWNER; NONELOST(p) }
	:: d_step { accepts[p] && state[p] == OPEN -> skip }
	fi;
	d_step { pod = p; shopEpoch = epoch[p]; lastToken = fresh; RETIRE };
#endif
	d_step { master = true }
}
#endif

/* When nobody can go on, all faults being over, the shop is writable where the
 * directory says, everybody who wrote has returned, and no move left a trace. */
active proctype Quiet() {
	timeout ->
	assert(ended == WRITERS);
	assert(jState == NONE);
	assert(WRITABLE(pod) && epoch[pod] == shopEpoch && state[1 - pod] != OPEN);
	/* A mover whose target forgot that it was undone, and which died before it
	 * saw that, leaves a copy behind. */
	assert(state[1 - pod] != INCOMING || (failed[1 - pod] && dead));
	NONELOST(pod);
	assert(shared[0] == 0 && shared[1] == 0 && exclusive[0] == 0 && exclusive[1] == 0)
}

init {
	byte i;
	atomic {
		state[0] = OPEN; epoch[0] = 1; shopEpoch = 1;
		accepts[0] = true; accepts[1] = true;
		podEpoch[0] = 1; podEpoch[1] = 1; serving[0] = true; serving[1] = true;
		i = 0;
		do :: i < WRITERS -> run Writer(WRITER(i)); i++ :: else -> break od;
		i = 0;
		do :: i < MOVERS -> run Mover(MOVER(i), 0); i++ :: else -> break od;
#ifdef BACK
		run Mover(MOVER(MOVERS), 1);
#endif
		i = 0;
		do :: i < RECOVERERS -> run Recoverer(); i++ :: else -> break od;
		i = 0;
		do :: i < CLEANERS -> run Cleaner(); i++ :: else -> break od;
#if FAIL_SRC > 0
		run Podmover(0, true);
#endif
#if FAIL_SRC > 1
		run Podmover(0, false);
#endif
#if FAIL_DST > 0
		run Podmover(1, true);
#endif
#if FAIL_DST > 1
		run Podmover(1, false);
#endif
#ifdef FAIL_MASTER
		run Masterfail();
#endif
		i = 0
	}
}
