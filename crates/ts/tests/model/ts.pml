/* The protocol of `ts` for one job of one queue, for spin:
 *     spin -a -DNK=2 -DNJ=1 -DNCRASH=1 ts.pml && cc -O2 -DSAFETY -o pan pan.c && ./pan -m100000
 *
 * Modelled: flock on an open file description that forked and started processes share, kickers, joiners
 * (`-f`, `-w`), background leaders that are handed the lock, heirs that stand by with a lock of their own
 * until the queue's is free, the child between fork and exec, adoption, and a kill of any participant
 * between any two of its steps.
 * Not modelled: retries, several jobs, reboot, process ids that come again, and the heir that an heir makes for
 * itself when it takes over: no promise rests on it.
 *
 * Seeded faults, each of which must be found: BUG_NO_REREAD, BUG_SAMPLE_LATE, BUG_EXEC_FIRST,
 * BUG_NO_ADOPTION, BUG_JOINER_LEAVES, BUG_CLOSE_BEFORE_START, BUG_NO_HEIR, BUG_NO_HEIR_OF_FIRST,
 * BUG_HEIR_NO_ADOPTION, BUG_HEIR_LETS_GO_FIRST, BUG_LEADER_MAKES_HEIR.
 * NO_HEIRS leaves the heirs out, for more participants.
 */
#ifndef NK
#define NK 2        /* kickers */
#endif
#ifndef NJ
#define NJ 1        /* joiners */
#endif
#ifndef NCRASH
#define NCRASH 1    /* kills */
#endif

byte own = 0;       /* the open file description that holds the lock; 0 for none */
byte refs = 0;      /* processes that share it */
byte hown = 0;      /* the same for the lock by which an heir stands by */
byte hrefs = 0;
byte heirs = 0;     /* processes that stand by */
bool lone = 0;      /* an heir that had taken over was killed: nobody stood by for it */
byte promised = 0;  /* the last kick that was answered */
byte req = 0, done = 0, res = 0;
bool rec = 0, recalive = 0;
byte kids = 0, nrun = 0, runs = 0, live = 0, crashes = 0;
byte cov = 0;       /* kicks that a run with a known status covers */
byte before = 0;    /* kicks that came before the last fork */
bool early = 1;     /* so far, every kick but the first came while the first run went on */

#define SWEEP   0
#define KICKER  1
#define JOINER  2
#define LEADER  3
#define HEIR    4

#define MAY_DIE if :: (crashes < NCRASH) -> crashes++; goto died :: true -> skip fi
#define CLOSE(f) d_step { if :: (f != 0 && own == f) -> refs--; if :: (refs == 0) -> own = 0 :: else fi :: else fi }

#define CLOSE_HEIR d_step { if :: (hfd != 0 && hown == hfd) -> hrefs--; if :: (hrefs == 0) -> hown = 0 :: else fi :: else fi; hfd = 0 }

/* Sees to it that somebody stands by: whoever gets the heir's lock hands it to a new heir. */
#define ENSURE_HEIR \
    atomic { if :: (hown == 0) -> hown = _pid; hrefs = 1; hfd = _pid :: else -> skip fi }; \
    if \
    :: (hfd != 0) -> MAY_DIE; atomic { hrefs++; live++; run P(HEIR, hfd) }; MAY_DIE; CLOSE_HEIR \
    :: else -> skip \
    fi

proctype Child(byte fd) {
#ifdef BUG_EXEC_FIRST
    d_step { if :: (own == fd) -> refs--; if :: (refs == 0) -> own = 0 :: else fi :: else fi;
             fd = 0; nrun++; assert(nrun == 1) };
    d_step { rec = 1; recalive = 1 };
#else
    MAY_DIE;
    d_step { rec = 1; recalive = 1 };
    MAY_DIE;
    d_step { if :: (own == fd) -> refs--; if :: (refs == 0) -> own = 0 :: else fi :: else fi;
             fd = 0; nrun++; assert(nrun == 1) };
#endif
    if :: (crashes < NCRASH) -> crashes++ :: true -> skip fi;
    d_step { nrun--; recalive = 0; kids-- };
    goto fin;
died:
    atomic { CLOSE(fd); recalive = 0; kids-- };
fin:
    skip
}

proctype P(byte kind; byte fd) {
    byte s = 0, t = 0, hfd = 0;
    bool succeeded = 0;
    if
    :: (kind == LEADER) -> goto lead
    :: (kind == HEIR) -> hfd = fd; fd = 0; goto stand_by
    :: (kind == SWEEP) -> goto attempt
    :: else -> skip
    fi;
    MAY_DIE;
    d_step { if :: (req > 0 && (runs != 1 || nrun == 0)) -> early = 0 :: else fi; req++; t = req };

attempt:
    MAY_DIE;
    if
    :: (kind == JOINER) ->
        atomic {
            (own == 0 || res >= t);
            if
            :: (res >= t) -> goto out
            :: else -> own = _pid; refs = 1; fd = _pid
            fi
        }
    :: else ->
        atomic { if :: (own == 0) -> own = _pid; refs = 1; fd = _pid :: else -> skip fi };
        if :: (fd == 0) -> goto relied :: else -> skip fi
    fi;
    MAY_DIE;
    if
    :: (kind == JOINER && !(rec && recalive)) -> rec = 0; goto once
    :: (kind == JOINER && rec && recalive) -> goto hand_over
    :: else -> skip
    fi;

needed:     /* holding the lock: is a background leader needed? */
    if
    :: (req != done || (rec && recalive)) -> goto hand_over
    :: else -> skip
    fi;
    goto leave;

hand_over:
    MAY_DIE;
#ifdef BUG_CLOSE_BEFORE_START
    CLOSE(fd);
    atomic { live++; run P(LEADER, fd); fd = 0 };
#else
    atomic { refs++; live++; run P(LEADER, fd) };
    MAY_DIE;
    CLOSE(fd); fd = 0;
#endif
    if :: (kind == JOINER) -> goto attempt :: else -> skip fi;
#ifdef BUG_NO_HEIR_OF_FIRST
    goto out;
#endif

relied:     /* on whoever leads: somebody must stand by before the kick is answered */
    MAY_DIE;
#if !defined(BUG_NO_HEIR) && !defined(NO_HEIRS)
    ENSURE_HEIR;
#endif
    goto out;

stand_by:   /* an heir, until nobody else holds the queue's lock */
    heirs++;
    assert(heirs <= 1);
    if :: (crashes < NCRASH) -> crashes++; heirs--; goto died :: true -> skip fi;
#ifdef BUG_HEIR_LETS_GO_FIRST
    CLOSE_HEIR;
#endif
    atomic { (own == 0); own = _pid; refs = 1; fd = _pid };
    if :: (crashes < NCRASH) -> crashes++; heirs--; succeeded = 1; goto died :: true -> skip fi;
    d_step { if :: (hown == hfd) -> hown = 0; hrefs = 0 :: else fi; hfd = 0; heirs-- };
    kind = LEADER; succeeded = 1;
    goto lead;

lead:       /* a background leader, holding the lock */
    MAY_DIE;
#ifdef BUG_LEADER_MAKES_HEIR
    if :: (req != done || (rec && recalive)) -> ENSURE_HEIR :: else -> skip fi;
#endif
    if
    :: rec ->
#if defined(BUG_HEIR_NO_ADOPTION)
        (succeeded || recalive == 0);
#elif !defined(BUG_NO_ADOPTION)
        (recalive == 0);
#endif
        MAY_DIE;
        rec = 0
    :: else -> skip
    fi;

once:
    MAY_DIE;
#ifndef BUG_SAMPLE_LATE
    s = req;
#endif
    if :: (req == done) -> goto leave :: else -> skip fi;
    MAY_DIE;
    atomic { refs++; kids++; runs++; before = req; run Child(fd) };
    MAY_DIE;
    (kids == 0);
    MAY_DIE;
#ifdef BUG_SAMPLE_LATE
    s = req;
#endif
    assert(s <= before);
    res = s;
    MAY_DIE;
    d_step { done = s; cov = s };
    MAY_DIE;
    rec = 0;
    if :: (kind == LEADER) -> goto lead :: else -> goto needed fi;

leave:
    MAY_DIE;
    d_step { if :: (own == fd) -> own = 0; refs = 0 :: else fi; fd = 0 };
    MAY_DIE;
#ifdef BUG_JOINER_LEAVES
    if :: (kind == JOINER) -> goto attempt :: else -> skip fi;
#endif
#ifndef BUG_NO_REREAD
    if
    :: (req != done) ->
        atomic {
            if
            :: (own == 0) -> own = _pid; refs = 1; fd = _pid;
                if :: (kind == LEADER) -> goto lead :: else -> goto needed fi
            :: else -> skip     /* whoever holds it has the duty */
            fi
        }
    :: else -> skip
    fi;
#endif
    if :: (kind == JOINER) -> goto attempt :: else -> goto out fi;

died:
    atomic { if :: succeeded -> lone = 1 :: else -> skip fi; CLOSE(fd); CLOSE_HEIR; live--; goto fin };
out:
    atomic {
        CLOSE_HEIR;
        if
        :: (kind == JOINER) -> assert(res >= t)
        :: (kind == KICKER && t > promised) -> promised = t
        :: else -> skip
        fi;
        live--
    };
fin:
    skip
}

init {
    byte i = 0;
    atomic {
        do :: (i < NK) -> live++; run P(KICKER, 0); i++ :: else -> break od;
        i = 0;
        do :: (i < NJ) -> live++; run P(JOINER, 0); i++ :: else -> break od
    };
    (live == 0 && kids == 0);
    /* Without a kill everything is covered with nobody's help. */
    assert(crashes > 0 || (req == done && cov == NK + NJ));
#ifndef NO_HEIRS
    /* One kill, of whomever but an heir that has taken over, and all that was answered is covered with nobody's help. */
    assert(crashes > 1 || lone || cov >= promised);
#endif
    /* The first kick starts a run; if all others came during it, there is one more. */
    assert(crashes > 0 || !early || runs <= 2);
    /* After any kills one call covers everything that is pending. */
    crashes = NCRASH + 1;
    atomic { live++; run P(SWEEP, 0) };
    (live == 0 && kids == 0);
    assert(req == done && cov == req)
}
