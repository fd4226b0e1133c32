"""The compiled part of `score_gates`: gates one by one over what their features have in common.

    BlockMasks of the features that gates name ──▶ Layout: per feature a bit for every block, and for every cluster, in which it is
                                                   active, and what it has in each; totals over clusters

    for each gate, over its slots (parents, child, and the best parent if that is another):
        clusters in which two slots are active, ascending     x, Σx and Σx xᵀ
            blocks in which two slots are active, ascending   joint numbers of tokens, scores, bets, deciding tokens
        all others                                            from the totals of the slots

A feature is active in some hundred of thousands of blocks and clusters, two of them together in far fewer, and nothing else moves
a score: in a block where one slot is active alone every s and c is 0. All but bets are integers below 2^53, so leaving out and
subtracting is exact. The logarithm of a bet's factor is taken when their product leaves 1e±200 or the segment ends: 20 ns a score
less than one each.
"""

import numpy as np

from kernels.cpu.compiled import compiled
from kernels.cpu.gate_layout import Layout
from kernels.cpu.native import ones, trailing_zeros

ZERO, ONE, LAST_BIT = np.uint64(0), np.uint64(1), np.uint64(63)
AND, OR, AND_NOT, TWO_OF_THREE = range(4)
P0, P1, P2, Y, BEST = range(5)  # slots
MOST_BET = 0.9  # of what could be lost at once
HUGE = 1e200


# No branches in these three: which slots are active changes from block to block, and a wrong guess costs as much as two divisions.
@compiled(inline="always")
def _find(bits, first, payload, row, word, below):
    """What the feature has at bit `below` + 1 of a word: 0 if it is not set, read from somewhere all the same."""
    here = bits[row, word]
    at = np.uint64(first[row, word]) + ones(here & below)
    found = np.uint64(payload[min(at, np.uint64(len(payload) - 1))])
    return found if here & (below + ONE) != ZERO else ZERO


@compiled(inline="always", error_model="numpy")
def _part(n, r, k, joint, sign):
    """s and c of one stratum: exactly 0 both where it is empty, or x or y is the same on all its tokens."""
    expected = np.float64(r * k) / np.float64(max(n, 1))
    if sign > 0:
        return joint - expected, expected - max(0, r + k - n)
    return expected - joint, min(r, k) - expected


@compiled(inline="always", error_model="numpy")
def _bet(test, score, loss, prior_sum, prior_squares, bets):
    """bets float64 [3, 4]: Σs, Σs² and the product of factors since the last logarithm was taken; true when that is due."""
    bet, most = (prior_sum + bets[0, test]) / (prior_squares + bets[1, test]), MOST_BET / loss  # +inf where nothing can be lost
    bet = bet if bet > 0.0 else 0.0
    bet = bet if bet < most else most
    bets[0, test] += score
    bets[1, test] += score * score
    bets[2, test] *= 1.0 + bet * score
    return not 1.0 / HUGE < bets[2, test] < HUGE


@compiled()
def _log(bets, log_e):
    for test in range(4):
        log_e[test] += np.log(bets[2, test])
        bets[2, test] = 1.0


@compiled(inline="always")
def _holds(kind, a, b, c):
    """The tokens of a block at which the gate holds."""
    if kind == AND:
        return a & b
    if kind == OR:
        return a | b
    if kind == AND_NOT:
        return a & ~b
    return (a & b) | (a & c) | (b & c)


@compiled(inline="always")
def _several(bits, other_bits, a, b, c, y, best, word):
    """The blocks or clusters of a word in which two of the slots are active, and those in which any is; c and best may be −1."""
    once = bits[a, word]
    here = bits[b, word]
    twice = once & here
    once |= here
    if c >= 0:
        here = bits[c, word]
        twice |= once & here
        once |= here
    if best >= 0:
        here = bits[best, word]
        twice |= once & here
        once |= here
    here = other_bits[y, word]
    return twice | (once & here), once | here


@compiled(error_model="numpy")
def _score(up, down, kinds, slots, block_tokens, block_cluster, halves, special, totals, carried, prior_sum, prior_squares):
    bits, first, masks, cluster_bits, cluster_first, numbers, active, own = up
    y_bits, y_first, y_masks, y_cluster_bits, y_cluster_first, y_numbers, y_active, y_own = down
    cells, log_e, score_sum, score_squares, sums, squares, documents, deciding = totals
    words, cluster_words = bits.shape[1], cluster_bits.shape[1]
    twice = np.zeros(words, np.uint64)
    special_bits = np.zeros(cluster_words, np.uint64)
    begins = np.zeros(len(halves) + 1, np.int64)
    for block in range(len(block_cluster)):
        begins[block_cluster[block] + 1] += 1
    for cluster in range(len(halves)):
        begins[cluster + 1] += begins[cluster]
        if special[cluster] >= 0:
            special_bits[cluster >> 6] |= ONE << (np.uint64(cluster) & LAST_BIT)
    bets, joint, x, number = np.ones((3, 4)), np.zeros(16, np.int64), np.zeros(5), np.zeros(5, np.int64)
    in_several = np.zeros((5, 4))  # as Layout.own, of the clusters that were gone through

    for gate in range(len(kinds)):
        kind = kinds[gate]
        a, b, c, y, best = slots[gate, P0], slots[gate, P1], slots[gate, P2], slots[gate, Y], slots[gate, BEST]
        three = kind == TWO_OF_THREE
        best_slot, extra = BEST, best
        for slot in range(3 if three else 2):
            if slots[gate, slot] == best:
                best_slot, extra = slot, -1
        # Where the best parent is active alone: 1 if the gate holds there too.
        best_holds = (kind == OR and best_slot <= P1) or (kind == AND_NOT and best_slot == P0)
        alone_decides = kind != AND and not best_holds
        bets[0], bets[1], bets[2] = score_sum[gate], score_squares[gate], 1.0
        joint[:] = 0
        in_several[:] = 0.0
        for word in range(words):
            twice[word] = _several(bits, y_bits, a, b, c, y, extra, word)[0]
        for cluster_word in range(cluster_words):
            both, one = _several(cluster_bits, y_cluster_bits, a, b, c, y, extra, cluster_word)
            clusters_left = both | (one & special_bits[cluster_word])
            while clusters_left != ZERO:
                cluster = 64 * cluster_word + trailing_zeros(clusters_left)
                below = (clusters_left & (ZERO - clusters_left)) - ONE
                clusters_left &= clusters_left - ONE
                gate_both = gate_joint = best_both = best_here = 0
                decides = False
                begin, end = begins[cluster], begins[cluster + 1]
                for word in range(begin >> 6, ((end - 1) >> 6) + 1):
                    left = twice[word]
                    if begin > 64 * word:
                        left &= ~ZERO << np.uint64(begin - 64 * word)
                    if end < 64 * word + 64:
                        left &= (ONE << np.uint64(end - 64 * word)) - ONE
                    while left != ZERO:
                        block = 64 * word + trailing_zeros(left)
                        under = (left & (ZERO - left)) - ONE
                        left &= left - ONE
                        ma = _find(bits, first, masks, a, word, under)
                        mb = _find(bits, first, masks, b, word, under)
                        mc = _find(bits, first, masks, c, word, under) if three else ZERO
                        my = _find(y_bits, y_first, y_masks, y, word, under)
                        if best_slot == P0:
                            mbest = ma
                        elif best_slot == P1:
                            mbest = mb
                        elif best_slot == P2:
                            mbest = mc
                        else:
                            mbest = _find(bits, first, masks, best, word, under)
                        holds = _holds(kind, ma, mb, mc)
                        gate_both += np.int64(ones(holds & my))
                        best_both += np.int64(ones(mbest & my))
                        best_here += np.int64(ones(mbest))
                        decides |= (holds & my if kind == AND else (holds ^ mbest) & ~(my ^ holds)) != ZERO

                        n = np.int64(block_tokens[block])
                        na, nb, ny = np.int64(ones(ma)), np.int64(ones(mb)), np.int64(ones(my))
                        ab, ay, by = np.int64(ones(ma & mb)), np.int64(ones(ma & my)), np.int64(ones(mb & my))
                        aby = np.int64(ones(ma & mb & my))
                        joint[3] += ab
                        joint[9] += ay
                        joint[10] += by
                        joint[11] += aby
                        if three:
                            nc = np.int64(ones(mc))
                            ac, bc, cy = np.int64(ones(ma & mc)), np.int64(ones(mb & mc)), np.int64(ones(mc & my))
                            acy, bcy = np.int64(ones(ma & mc & my)), np.int64(ones(mb & mc & my))
                            joint[5] += ac
                            joint[6] += bc
                            joint[12] += cy
                            joint[7] += np.int64(ones(ma & mb & mc))
                            joint[13] += acy
                            joint[14] += bcy
                            joint[15] += np.int64(ones(ma & mb & mc & my))
                            gate_joint += np.int64(ones(holds))
                            due = False
                            for test in range(3):
                                x0 = ma if test == 0 else mb if test == 1 else mc
                                x1 = mb ^ mc if test == 0 else ma ^ mc if test == 1 else ma ^ mb
                                s, loss = _part(
                                    np.int64(ones(x1)),
                                    np.int64(ones(x1 & x0)),
                                    np.int64(ones(x1 & my)),
                                    np.int64(ones(x1 & x0 & my)),
                                    1,
                                )
                                due |= _bet(test, s, loss, prior_sum, prior_squares, bets)
                            s, loss = _part(n - ny, na - ay, nb - by, ab - aby, -1)
                            s1, loss1 = _part(n - ny, na - ay, nc - cy, ac - acy, -1)
                            s2, loss2 = _part(n - ny, nb - by, nc - cy, bc - bcy, -1)
                            due |= _bet(3, s + s1 + s2, loss + loss1 + loss2, prior_sum, prior_squares, bets)
                        else:
                            gate_joint += ab
                            if kind == AND:
                                s0, loss0 = _part(nb, ab, by, aby, 1)
                                s1, loss1 = _part(na, ab, ay, aby, 1)
                                s2, loss2 = _part(n - ny, na - ay, nb - by, ab - aby, -1)
                            elif kind == OR:
                                s0, loss0 = _part(n - nb, na - ab, ny - by, ay - aby, 1)
                                s1, loss1 = _part(n - na, nb - ab, ny - ay, by - aby, 1)
                                s2, loss2 = _part(ny, ay, by, aby, -1)
                            else:
                                s0, loss0 = _part(n - nb, na - ab, ny - by, ay - aby, 1)
                                s1, loss1 = _part(na, ab, ay, aby, -1)
                                s2, loss2 = _part(n - ny, na - ay, nb - by, ab - aby, 1)
                            due = _bet(0, s0, loss0, prior_sum, prior_squares, bets)
                            due |= _bet(1, s1, loss1, prior_sum, prior_squares, bets)
                            due |= _bet(2, s2, loss2, prior_sum, prior_squares, bets)
                        if due:
                            _log(bets, log_e[gate])

                number[P0] = _find(cluster_bits, cluster_first, numbers, a, cluster_word, below)
                number[P1] = _find(cluster_bits, cluster_first, numbers, b, cluster_word, below)
                number[P2] = _find(cluster_bits, cluster_first, numbers, c, cluster_word, below) if three else 0
                number[Y] = _find(y_cluster_bits, y_cluster_first, y_numbers, y, cluster_word, below)
                number[BEST] = _find(cluster_bits, cluster_first, numbers, best, cluster_word, below)
                if kind == OR:
                    gate_joint = number[P0] + number[P1] - gate_joint
                elif kind == AND_NOT:
                    gate_joint = number[P0] - gate_joint
                if alone_decides and number[BEST] > best_here:
                    decides = True
                x[0], x[1], x[2], x[3], x[4] = gate_both, gate_joint, best_both, number[BEST], number[Y]
                row = special[cluster]
                if row >= 0:
                    for one_sum in range(5):
                        carried[row, gate, one_sum] += x[one_sum]
                    if decides:
                        carried[row, gate, 5] = 1.0
                    continue
                half = halves[cluster]
                at = 0
                for one_sum in range(5):
                    if x[one_sum] == 0.0:
                        at += 5 - one_sum
                        continue
                    sums[gate, half, one_sum] += x[one_sum]
                    for other in range(one_sum, 5):
                        squares[gate, at] += x[one_sum] * x[other]
                        at += 1
                documents[gate] += x[1] > 0 or x[3] > 0 or x[4] > 0
                deciding[gate] += decides
                for slot in range(5):
                    in_several[slot, half] += number[slot]
                    in_several[slot, 2] += number[slot] * number[slot]
                    in_several[slot, 3] += number[slot] > 0

        _log(bets, log_e[gate])
        score_sum[gate], score_squares[gate] = bets[0], bets[1]
        _add_alone(
            kind,
            slots[gate],
            best_slot,
            alone_decides,
            own,
            y_own,
            in_several,
            sums[gate],
            squares[gate],
            documents,
            deciding,
            gate,
        )
        _add_cells(three, slots[gate], active, y_active, joint, cells[gate])


@compiled()
def _add_alone(kind, slots, best_slot, alone_decides, own, y_own, in_several, sums, squares, documents, deciding, gate):
    """The clusters in which just one slot is active: a sum of x is 0 or the slot's own number of tokens."""
    for slot in range(5):
        if (slot == P2 and kind != TWO_OF_THREE) or (slot == BEST and best_slot != BEST):
            continue
        holds = (kind == OR and slot <= P1) or (kind == AND_NOT and slot == P0)
        is_best, is_child = slot == best_slot, slot == Y
        if not (holds or is_best or is_child):
            continue
        row = y_own[slots[slot]] if is_child else own[slots[slot]]
        for half in range(2):
            tokens = row[half] - in_several[slot, half]
            sums[half, 1] += tokens * holds
            sums[half, 3] += tokens * is_best
            sums[half, 4] += tokens * is_child
        square, clusters = row[2] - in_several[slot, 2], np.int64(row[3] - in_several[slot, 3])
        squares[5] += square * holds  # gate x gate
        squares[7] += square * (holds and is_best)
        squares[12] += square * is_best
        squares[14] += square * is_child
        documents[gate] += clusters
        if is_best and alone_decides:
            deciding[gate] += clusters


@compiled()
def _add_cells(three, slots, active, y_active, joint, cells):
    """From "at least these slots" to "just these"."""
    joint[1], joint[2], joint[8] = active[slots[P0]], active[slots[P1]], y_active[slots[Y]]
    if three:
        joint[4] = active[slots[P2]]
    for bit in (1, 2, 4, 8):
        for cell in range(1, 16):
            if cell & bit == 0:
                joint[cell] -= joint[cell | bit]
    for cell in range(1, 16):
        cells[cell] += joint[cell]


def score(
    up: Layout,
    down: Layout,
    kinds: np.ndarray,
    slots: np.ndarray,
    block_tokens: np.ndarray,
    block_cluster: np.ndarray,
    cluster_half: np.ndarray,
    cluster_special: np.ndarray,
    totals: tuple[np.ndarray, ...],
    carried: np.ndarray,
    prior: tuple[float, float],
) -> None:
    """See `kernels.score_gates`; slots int64 [G, 5] are rows of the layouts: parents (third −1: none), child, best parent."""
    clusters = (block_tokens, block_cluster, cluster_half, cluster_special)
    _score(tuple(up), tuple(down), kinds, slots, *clusters, totals, carried, float(prior[0]), float(prior[1]))
