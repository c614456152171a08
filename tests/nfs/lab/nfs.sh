# shellcheck shell=bash
# What jobs in a guest are made of: servers, clients, lockfs. To be sourced in the guest.

modprobe -a ext4 virtio_blk fuse

# rpcbind and statd, which NFSv3 locking needs on both sides.
nfs_common() {
  grep -q ^_rpc: /etc/passwd ||
    echo '_rpc:x:105:65534::/run/rpcbind:/usr/sbin/nologin' >>/etc/passwd
  mkdir -p /run/rpcbind /run/rpc_pipefs /var/lib/nfs/{sm,sm.bak,nfsdcld,v4recovery}
  mountpoint -q /run/rpc_pipefs || mount -t rpc_pipefs rpc_pipefs /run/rpc_pipefs
  rpcbind
  rpc.statd --no-notify
}

# disk_up: the disk of the guest on /data, empty.
disk_up() {
  mkdir -p /data /export
  mount /dev/vda /data
  chmod 1777 /data
}

# knfsd_start: the threads. Lease and grace are 10 s, the shortest the kernel takes; GRACE is another
# one. Without nfsdcld it waits for it, and then for the whole grace period.
knfsd_start() {
  rpc.nfsd -G "${GRACE:-10}" -L 10 8
}
knfsd_end_grace() {
  echo Y >/proc/fs/lockd/nlm_end_grace
  echo Y >/proc/fs/nfsd/v4_end_grace
}

# knfsd_up OPTIONS:PATH...: a kernel NFS server, out of its grace period unless GRACE is set. With fsid=0:/data NFSv3
# clients mount server:/data and NFSv4 clients server:/
knfsd_up() {
  local entry
  modprobe lockd nlm_timeout=3 nlm_grace_period="${GRACE:-3}"
  modprobe nfsd
  mount -t nfsd nfsd /proc/fs/nfsd
  nfs_common
  : >/etc/exports
  : >/var/lib/nfs/etab
  : >/var/lib/nfs/rmtab
  for entry; do
    exportfs -o "rw,insecure,no_root_squash,no_subtree_check,${entry%%:*}" "*:${entry#*:}"
  done
  rpc.mountd
  nfsdcld
  knfsd_start
  [[ ${GRACE:-} ]] || knfsd_end_grace
}

# ganesha_up PATH: an NFS server in user space for NFSv3 and v4 clients, in place of knfsd. GANESHA is
# the command that runs it. Should it crash, it ends the part as well, which would only wait for it.
export GANESHA=/run/ganesha
ganesha_up() {
  cat >$GANESHA <<'END'
#!/bin/bash
status=0
ganesha.nfsd -F -f /run/ganesha.conf -p /run/ganesha.pid -L "/lab/out/$(hostname).server.log" -N NIV_WARN || status=$?
((status > 128 && status != 143)) || exit "$status"
echo "$status" >/run/ganesha.crashed
kill -KILL "$(</run/part.pid)"
END
  chmod +x $GANESHA
  modprobe -a nfsv3 nfsv4
  nfs_common
  mkdir -p /var/lib/nfs/ganesha
  cat >/run/ganesha.conf <<END
NFS_CORE_PARAM { Protocols = 3, 4; NFS_Port = 2049; MNT_Port = 20048; NLM_Port = 32803;
  Enable_NLM = true; Enable_RQUOTA = false; mount_path_pseudo = false; }
NFSV4 { Graceless = true; Lease_Lifetime = 10; RecoveryBackend = fs; Minor_Versions = 0, 1, 2;
  Only_Numeric_Owners = true; Delegations = false; }
NFS_KRB5 { Active_krb5 = false; }
EXPORT { Export_Id = 1; Path = $1; Pseudo = /; Access_Type = RW; Squash = No_Root_Squash;
  SecType = sys; Protocols = 3, 4; FSAL { Name = VFS; } }
END
  $GANESHA >/dev/null 2>&1 &
  until (exec 3<>/dev/tcp/10.0.0.1/2049) 2>/dev/null; do sleep 0.1; done
}

# bridge_up: the wire between the server (10.0.0.1) and its clients. Each client speaks to an address
# of the server of its own: they share one kernel, whose NLM client tells two blocked requests for one
# file apart by server address and a small number only (nlmclnt_grant()), so that with one address the
# grant for one client wakes the other one, too, now and then.
declare -A SERVER_OF=([a]=10.0.0.1 [b]=10.0.0.11)
bridge_up() {
  modprobe -a bridge veth
  ip link add lab0 type bridge
  ip addr add 10.0.0.1/24 dev lab0
  ip addr add 10.0.0.11/24 dev lab0
  ip link set lab0 up
}

# client_up NAME ADDRESS: a client on this same machine with a network, mounts and a host name of its
# own (the name is what tells NFSv4 clients apart). Sets CLIENT_<NAME> to a process in there. To be
# called before /data and /export are mounted, so that these are not in its view.
declare -A CLIENT
client_up() {
  local name=$1 address=$2 pid kind
  modprobe -a nfsv3 nfsv4
  unshare -n -m -u sleep infinity &
  pid=$!
  CLIENT[$name]=$pid
  for kind in net mnt uts; do
    until [[ $(readlink "/proc/$pid/ns/$kind") != "$(readlink "/proc/self/ns/$kind")" ]]; do
      sleep 0.02
    done
  done
  ip link add "wire_$name" type veth peer name eth0 netns "$pid"
  ip link set "wire_$name" master lab0 up
  client "$name" hostname "$name"
  client "$name" ip link set lo up
  client "$name" ip addr add "$address/24" dev eth0
  client "$name" ip link set eth0 up
  # Its own rpcbind socket and state, or its lockd and statd would speak to the server's.
  client "$name" mount -t tmpfs tmpfs /run
  client "$name" mount -t tmpfs tmpfs /var/lib/nfs
  client "$name" bash -c "$(declare -f nfs_common); nfs_common"
  declare -gx "CLIENT_${name^^}=$pid"
}
client() {
  local pid=${CLIENT[$1]}
  shift
  nsenter -t "$pid" -n -m -u "$@"
}

# client_mount NAME VERSION [OPTIONS]: the server's export, EXPORTED, on /mnt/VERSION of that client, with the
# default options but for those given.
client_mount() {
  local path=/
  [[ $2 != 3 ]] || path=$EXPORTED
  client "$1" mkdir -p "/mnt/$2"
  client "$1" mount -t nfs -o "vers=$2${3:+,$3}" "${SERVER_OF[$1]}:$path" "/mnt/$2"
}

# lockfs_up [OPTION...]: lockfs from /data to /export, with the options of LAB_LOCKFS_OPTIONS as well
# (LAB_LOCKFS_OPTIONS="-o nomirror" shows what the tests see without lockfs). Its log is
# /lab/out/<guest>.lockfs.log.
lockfs_up() {
  # shellcheck disable=SC2086  # several options
  "$LAB_BIN/lockfs" /data /export -f ${LAB_LOCKFS_OPTIONS:-} "$@" >>"/lab/out/$(hostname).lockfs.log" 2>&1 &
  LOCKFS_PID=$!
  export LOCKFS_PID
  until mountpoint -q /export; do
    kill -0 "$LOCKFS_PID" || { cat "/lab/out/$(hostname).lockfs.log"; return 1; }
    sleep 0.05
  done
}
