# `xl block-attach` of a disk that cannot be served fails and prints the reason: an image that another guest of this
# host writes to, and an image that is missing. It also fails while no `serve` runs. libxl leaves the nodes of a disk
# that it could not add: `xl block-detach` removes them. The disk of the other guest is not disturbed.
# suites: trixie
# short: none
# timeout: 500 s
image taken 16M
taken="$image"
image free 16M
free="$image"
serve_start serve
serve_pid="$background_pid"
guest_start alpha
guest_start beta
alpha="$(domid alpha)" beta="$(domid beta)"
xl block-attach alpha "$(tap_disk "$taken" xvdb)"
wait_for 30 "the disk of alpha" both_connected "$alpha" xvdb
load_starts alpha xvdb

# attach_refused SECONDS REGEX IMAGE: xl must fail in time, with a reason that matches.
attach_refused() {
  local since="$SECONDS" status=0 answer
  answer="$(xl block-attach beta "$(tap_disk "$3" xvdb)" 2>&1)" || status=$?
  echo "$answer" | sed 's/^/  xl: /'
  [ "$status" -ne 0 ] || fail "xl block-attach of $3 returned 0"
  grep -Eq "$2" <<<"$answer" || fail "xl block-attach of $3 prints no reason like '$2'"
  note "xl block-attach failed after $((SECONDS - since)) s"
  [ $((SECONDS - since)) -le $((patience * $1)) ] || fail "xl block-attach of $3 took $((SECONDS - since)) s"
}

refused_detached() {
  xl block-detach beta xvdb
  wait_for 20 "the nodes of the refused disk to be gone" store_gone "/local/domain/0/backend/vbd3/$beta/51728"
}
attach_refused 6 "$taken.*uses it" "$taken"
refused_detached
attach_refused 6 "$images/missing.img.*(ENOENT|[Nn]o such file|does not exist)" "$images/missing.img"
refused_detached

# After the refusals, the same name takes a disk that can be served.
xl block-attach beta "$(tap_disk "$free" xvdb)"
wait_for 30 "the disk of beta" both_connected "$beta" xvdb
guest_run beta "$(fio_verify xvdb --size=2M)"
xl block-detach beta xvdb
load_ends 120

kill -TERM "$serve_pid"
process_ends "$serve_pid" 30 0
# libxl itself gives up after 10 s, without a reason: nobody is there to give one.
attach_refused 15 . "$free"
guest_stop beta
# alpha's disk is Connected and nobody serves it. Its guest does not care any more.
xl destroy alpha
wait_for 20 "alpha to vanish" domain_gone "$alpha"
xenstore-rm "/local/domain/0/backend/vbd3/$alpha" 2>/dev/null || true
