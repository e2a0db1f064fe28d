"""VOC AP as the development kit's files spell it: the slow, independent reference of the tests."""

from fractions import Fraction


def reference_ap(ground_truth, detections, threshold=Fraction(1, 2), inclusive=1, or_equal=False):
    """``VOCevaldet.m`` and ``VOCap.m`` as loops over lists, in exact fractions, with ``>`` or ``>=``.

    Args: ``ground_truth`` rows ``(image, box, difficult)``, ``detections`` rows ``(image, box, score)``.
    Returns: 11-point AP and area AP as Fractions, or None without ground truth.
    """
    npos = 0
    found = []
    for _, _, difficult in ground_truth:
        npos += not difficult
        found.append(False)
    tp, fp = [], []
    for d in sorted(range(len(detections)), key=lambda i: -detections[i][2]):  # sorted() is stable
        image, bb, _ = detections[d]
        tp.append(0)
        fp.append(0)
        ovmax = -1
        jmax = None
        for j, (gt_image, bbgt, _) in enumerate(ground_truth):
            if gt_image != image:
                continue
            iw = min(bb[2], bbgt[2]) - max(bb[0], bbgt[0]) + inclusive
            ih = min(bb[3], bbgt[3]) - max(bb[1], bbgt[1]) + inclusive
            if iw > 0 and ih > 0:
                ua = (
                    (bb[2] - bb[0] + inclusive) * (bb[3] - bb[1] + inclusive)
                    + (bbgt[2] - bbgt[0] + inclusive) * (bbgt[3] - bbgt[1] + inclusive)
                    - iw * ih
                )
                ov = Fraction(iw * ih) / Fraction(ua)
                if ov > ovmax:
                    ovmax = ov
                    jmax = j
        if ovmax > threshold or (or_equal and ovmax == threshold):
            if not ground_truth[jmax][2]:
                if not found[jmax]:
                    tp[-1] = 1
                    found[jmax] = True
                else:
                    fp[-1] = 1
        else:
            fp[-1] = 1
    if npos == 0:
        return None
    rec, prec = [], []
    for d in range(len(tp)):
        tps, fps = sum(tp[: d + 1]), sum(fp[: d + 1])
        rec.append(Fraction(tps, npos))
        prec.append(Fraction(tps, tps + fps) if tps + fps else Fraction(0))
    ap_11point = Fraction(0)
    for k in range(11):
        reached = [p for p, r in zip(prec, rec, strict=True) if r >= Fraction(k, 10)]
        ap_11point += max(reached, default=Fraction(0)) / 11
    mrec = [Fraction(0), *rec, Fraction(1)]
    mpre = [Fraction(0), *prec, Fraction(0)]
    for i in range(len(mpre) - 2, -1, -1):
        mpre[i] = max(mpre[i], mpre[i + 1])
    ap_area = Fraction(0)
    for i in range(1, len(mrec)):
        ap_area += (mrec[i] - mrec[i - 1]) * mpre[i]
    return ap_11point, ap_area


def random_rows(rng, size):
    """Small images with few integer coordinates and scores: IoUs of exactly 1/2, ties and duplicates abound."""

    def box():
        x1, y1 = rng.integers(1, 5, 2).tolist()
        w, h = rng.integers(0, 5, 2).tolist()
        return x1, y1, x1 + w, y1 + h

    images = max(1, size // 4)
    ground_truth = [(int(rng.integers(images)), box(), bool(rng.random() < 0.25)) for _ in range(size)]
    detections = [(int(rng.integers(images + 1)), box(), float(rng.integers(6)) / 5) for _ in range(2 * size)]
    detections += [(i, b, float(rng.integers(6)) / 5) for i, b, _ in ground_truth if rng.random() < 0.7]
    rng.shuffle(detections)
    return ground_truth, [(int(i), tuple(map(int, b)), float(s)) for i, b, s in detections]
