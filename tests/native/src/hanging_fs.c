/*
 * A FUSE file system for tests: it passes the regular files of one directory through, and holds back the answers to
 * chosen operations until it is told to resume.
 *
 *     hanging_fs DIRECTORY MOUNT_POINT
 *
 * It speaks the kernel's protocol on /dev/fuse itself (linux/fuse.h), so it needs root and no library. Commands come on
 * stdin, one per line; each is answered by one line on stdout:
 *
 *     hang NAME...    hold the named operations from now on (see `names`), and no others; "ok"
 *     resume          hold nothing, carry out what was held; "ok"
 *     held            the number of held requests of each operation, as a JSON object
 *
 * `after=N` as a NAME lets the first N of the named requests pass.
 * `interrupts` as a NAME answers EINTR to a held request that the kernel interrupts, because its process got a signal.
 * Otherwise such a process waits in the kernel and cannot be killed, as with a file server that does not answer.
 *
 * At the end of stdin it ends. The kernel then aborts the connection: all held operations fail with ECONNABORTED.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define MAX_WRITE (1024 * 1024)
#define BUFFER_BYTES (MAX_WRITE + 4096)
#define MAX_FILES 256
#define MAX_HELD 4096
/* libfuse's default; more background requests than this wait in the kernel at submission. */
#define MAX_BACKGROUND 12

/* Names of operations in commands. "lock" is GETLK, SETLK and SETLKW. */
static const struct { const char *name; uint32_t first, last; } names[] = {
    { "lookup", FUSE_LOOKUP, FUSE_LOOKUP },   { "getattr", FUSE_GETATTR, FUSE_GETATTR },
    { "open", FUSE_OPEN, FUSE_OPEN },         { "read", FUSE_READ, FUSE_READ },
    { "write", FUSE_WRITE, FUSE_WRITE },      { "fsync", FUSE_FSYNC, FUSE_FSYNC },
    { "flush", FUSE_FLUSH, FUSE_FLUSH },      { "release", FUSE_RELEASE, FUSE_RELEASE },
    { "lock", FUSE_GETLK, FUSE_SETLKW },      { "fallocate", FUSE_FALLOCATE, FUSE_FALLOCATE },
    { "statfs", FUSE_STATFS, FUSE_STATFS },   { "setattr", FUSE_SETATTR, FUSE_SETATTR },
};
#define NAMES (sizeof names / sizeof *names)

static int device, directory;
static bool hangs[NAMES], honours_interrupts;
static unsigned long passing;
static struct fuse_in_header *held[MAX_HELD];
static size_t held_count;
/* Node id 1 is the directory; node id n + 2 is the file files[n]. Ids are never reused. */
static char *files[MAX_FILES];
static size_t file_count;
static char reply_data[MAX_WRITE];

static void die(const char *what)
{
    fprintf(stderr, "hanging_fs: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void reply(const struct fuse_in_header *in, int error, const void *data, size_t length)
{
    static char out[sizeof(struct fuse_out_header) + MAX_WRITE];
    struct fuse_out_header header = { .error = -error, .unique = in->unique };
    if (error)
        length = 0;
    header.len = sizeof header + length;
    memcpy(out, &header, sizeof header);
    memcpy(out + sizeof header, data, length);
    /* ENOENT: the kernel does not wait for this answer any more. */
    if (write(device, out, header.len) < 0 && errno != ENOENT)
        die("write to /dev/fuse");
}

static void reply_errno(const struct fuse_in_header *in, int result)
{
    reply(in, result < 0 ? errno : 0, "", 0);
}

static const char *name_of(uint64_t node)
{
    return node == FUSE_ROOT_ID ? "." : files[node - 2];
}

static int attributes(uint64_t node, struct fuse_attr *attr)
{
    struct stat st;
    if (fstatat(directory, name_of(node), &st, AT_SYMLINK_NOFOLLOW) < 0)
        return errno;
    *attr = (struct fuse_attr){
        .ino = node, .size = st.st_size, .blocks = st.st_blocks, .mode = st.st_mode, .nlink = st.st_nlink,
        .uid = st.st_uid, .gid = st.st_gid, .blksize = st.st_blksize, .mtime = st.st_mtim.tv_sec,
        .mtimensec = st.st_mtim.tv_nsec, .ctime = st.st_ctim.tv_sec, .ctimensec = st.st_ctim.tv_nsec,
    };
    return 0;
}

static void init(const struct fuse_in_header *in, const struct fuse_init_in *arg)
{
    uint32_t wanted = FUSE_ASYNC_READ | FUSE_POSIX_LOCKS | FUSE_BIG_WRITES | FUSE_ASYNC_DIO | FUSE_MAX_PAGES;
    struct fuse_init_out out = {
        .major = FUSE_KERNEL_VERSION, .minor = FUSE_KERNEL_MINOR_VERSION, .max_readahead = arg->max_readahead,
        .flags = wanted & arg->flags, .max_background = MAX_BACKGROUND, .congestion_threshold = MAX_BACKGROUND,
        .max_write = MAX_WRITE, .max_pages = MAX_WRITE / 4096, .time_gran = 1,
    };
    reply(in, 0, &out, sizeof out);
}

/* Entries and attributes are valid for no time, so each path lookup and each stat comes here. */
static void lookup(const struct fuse_in_header *in, const char *name)
{
    struct fuse_entry_out out = { 0 };
    for (out.nodeid = 2; out.nodeid < file_count + 2 && strcmp(name_of(out.nodeid), name); out.nodeid++)
        ;
    if (out.nodeid == file_count + 2) {
        if (file_count == MAX_FILES || faccessat(directory, name, F_OK, AT_SYMLINK_NOFOLLOW) < 0)
            return reply(in, ENOENT, "", 0);
        files[file_count++] = strdup(name);
    }
    int error = attributes(out.nodeid, &out.attr);
    reply(in, error, &out, sizeof out);
}

static void getattr(const struct fuse_in_header *in)
{
    struct fuse_attr_out out = { 0 };
    int error = attributes(in->nodeid, &out.attr);
    reply(in, error, &out, sizeof out);
}

static void setattr(const struct fuse_in_header *in, const struct fuse_setattr_in *arg)
{
    if (arg->valid & FATTR_SIZE) {
        int fd = openat(directory, name_of(in->nodeid), O_WRONLY | O_CLOEXEC);
        if (fd < 0 || ftruncate(fd, arg->size) < 0)
            return reply_errno(in, -1);
        close(fd);
    }
    getattr(in);
}

/* Each open has a description of its own, so the description's locks are the locks of this open. */
static void open_file(const struct fuse_in_header *in, const struct fuse_open_in *arg)
{
    int fd = openat(directory, name_of(in->nodeid), (arg->flags & O_ACCMODE) | O_CLOEXEC);
    struct fuse_open_out out = { .fh = fd };
    reply(in, fd < 0 ? errno : 0, &out, sizeof out);
}

static void read_file(const struct fuse_in_header *in, const struct fuse_read_in *arg)
{
    ssize_t length = pread(arg->fh, reply_data, arg->size < MAX_WRITE ? arg->size : MAX_WRITE, arg->offset);
    reply(in, length < 0 ? errno : 0, reply_data, length);
}

static void write_file(const struct fuse_in_header *in, const struct fuse_write_in *arg)
{
    ssize_t length = pwrite(arg->fh, arg + 1, arg->size, arg->offset);
    struct fuse_write_out out = { .size = length };
    reply(in, length < 0 ? errno : 0, &out, sizeof out);
}

static void lock(const struct fuse_in_header *in, const struct fuse_lk_in *arg)
{
    struct flock fl = { .l_type = arg->lk.type, .l_whence = SEEK_SET, .l_start = arg->lk.start };
    fl.l_len = arg->lk.end == INT64_MAX ? 0 : arg->lk.end - arg->lk.start + 1;
    int result = fcntl(arg->fh, in->opcode == FUSE_GETLK ? F_OFD_GETLK : F_OFD_SETLK, &fl);
    if (in->opcode != FUSE_GETLK)
        return reply_errno(in, result);
    struct fuse_lk_out out = { .lk = { .type = fl.l_type, .start = fl.l_start } };
    out.lk.end = fl.l_len == 0 ? INT64_MAX : fl.l_start + fl.l_len - 1;
    reply(in, result < 0 ? errno : 0, &out, sizeof out);
}

static void statfs_file(const struct fuse_in_header *in)
{
    struct statvfs st;
    int error = fstatvfs(directory, &st) < 0 ? errno : 0;
    struct fuse_statfs_out out = { .st = {
        .blocks = st.f_blocks, .bfree = st.f_bfree, .bavail = st.f_bavail, .files = st.f_files, .ffree = st.f_ffree,
        .bsize = st.f_bsize, .namelen = st.f_namemax, .frsize = st.f_frsize,
    } };
    reply(in, error, &out, sizeof out);
}

static void seek(const struct fuse_in_header *in, const struct fuse_lseek_in *arg)
{
    off_t offset = lseek(arg->fh, arg->offset, arg->whence);
    struct fuse_lseek_out out = { .offset = offset };
    reply(in, offset < 0 ? errno : 0, &out, sizeof out);
}

static void carry_out(const struct fuse_in_header *in)
{
    const void *arg = in + 1;
    switch (in->opcode) {
    case FUSE_INIT: return init(in, arg);
    case FUSE_LOOKUP: return lookup(in, arg);
    case FUSE_GETATTR: return getattr(in);
    case FUSE_SETATTR: return setattr(in, arg);
    case FUSE_OPEN: return open_file(in, arg);
    case FUSE_READ: return read_file(in, arg);
    case FUSE_WRITE: return write_file(in, arg);
    case FUSE_FSYNC: return reply_errno(in, fdatasync(((const struct fuse_fsync_in *)arg)->fh));
    case FUSE_FLUSH: return reply(in, 0, "", 0);
    case FUSE_RELEASE: return reply_errno(in, close(((const struct fuse_release_in *)arg)->fh));
    case FUSE_GETLK: case FUSE_SETLK: case FUSE_SETLKW: return lock(in, arg);
    case FUSE_STATFS: return statfs_file(in);
    case FUSE_LSEEK: return seek(in, arg);
    case FUSE_FALLOCATE: {
        const struct fuse_fallocate_in *range = arg;
        return reply_errno(in, fallocate(range->fh, range->mode, range->offset, range->length));
    }
    case FUSE_FORGET: case FUSE_BATCH_FORGET: return;
    default: return reply(in, ENOSYS, "", 0);
    }
}

static bool must_hang(uint32_t opcode)
{
    for (size_t n = 0; n < NAMES; n++)
        if (opcode >= names[n].first && opcode <= names[n].last && hangs[n])
            return passing == 0 || passing-- == 0;
    return false;
}

static void interrupt(uint64_t unique)
{
    for (size_t n = 0; honours_interrupts && n < held_count; n++) {
        if (held[n]->unique != unique)
            continue;
        reply(held[n], EINTR, "", 0);
        free(held[n]);
        held[n] = held[--held_count];
        return;
    }
}

/* Takes one request of the kernel. */
static void take(void)
{
    static char buffer[BUFFER_BYTES] __attribute__((aligned(8)));
    struct fuse_in_header *in = (struct fuse_in_header *)buffer;
    ssize_t length = read(device, buffer, sizeof buffer);
    if (length < 0 && (errno == ENOENT || errno == EINTR || errno == EAGAIN))
        return; /* ENOENT: the request was interrupted before it was read */
    if (length < 0 && errno == ENODEV)
        exit(0); /* unmounted or aborted */
    if (length < 0)
        die("read of /dev/fuse");
    if (in->opcode == FUSE_INTERRUPT)
        return interrupt(((struct fuse_interrupt_in *)(in + 1))->unique);
    if (!must_hang(in->opcode))
        return carry_out(in);
    if (held_count == MAX_HELD)
        return reply(in, EIO, "", 0);
    held[held_count] = malloc(length);
    memcpy(held[held_count++], buffer, length);
}

static void resume(void)
{
    size_t count = held_count;
    held_count = 0;
    for (size_t n = 0; n < count; n++) {
        carry_out(held[n]);
        free(held[n]);
    }
}

static void print_held(void)
{
    size_t counts[NAMES] = { 0 };
    for (size_t n = 0; n < held_count; n++)
        for (size_t m = 0; m < NAMES; m++)
            counts[m] += held[n]->opcode >= names[m].first && held[n]->opcode <= names[m].last;
    for (size_t m = 0; m < NAMES; m++)
        printf("%s\"%s\":%zu", m == 0 ? "{" : ",", names[m].name, counts[m]);
    printf("}\n");
}

static bool choose(const char *word)
{
    if (!strcmp(word, "interrupts"))
        return honours_interrupts = true;
    if (sscanf(word, "after=%lu", &passing) == 1)
        return true;
    for (size_t n = 0; n < NAMES; n++)
        if (!strcmp(word, names[n].name))
            return hangs[n] = true;
    return false;
}

static void command(char *line)
{
    char *word = strtok(line, " \n");
    if (word && !strcmp(word, "held"))
        return print_held();
    memset(hangs, 0, sizeof hangs);
    honours_interrupts = false;
    passing = 0;
    if (word && !strcmp(word, "resume")) {
        resume();
    } else if (word && !strcmp(word, "hang")) {
        while ((word = strtok(NULL, " \n")))
            if (!choose(word)) {
                printf("unknown operation %s\n", word);
                return;
            }
    }
    printf("ok\n");
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: hanging_fs DIRECTORY MOUNT_POINT\n");
        return 2;
    }
    directory = open(argv[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    device = open("/dev/fuse", O_RDWR | O_CLOEXEC | O_NONBLOCK);
    if (directory < 0 || device < 0)
        die(directory < 0 ? argv[1] : "/dev/fuse");
    char options[128];
    snprintf(options, sizeof options, "fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other", device);
    if (mount("hanging_fs", argv[2], "fuse.hanging_fs", MS_NOSUID | MS_NODEV, options) < 0)
        die("mount");
    /* If the other side has ended, stdin ends too, and that leads to the unmount. */
    signal(SIGPIPE, SIG_IGN);
    setvbuf(stdout, NULL, _IOLBF, 0);
    printf("ok\n");
    for (char line[512];;) {
        struct pollfd fds[] = { { .fd = device, .events = POLLIN }, { .fd = 0, .events = POLLIN } };
        if (poll(fds, 2, -1) < 0 && errno != EINTR)
            die("poll");
        if (fds[0].revents)
            take();
        if (fds[1].revents) {
            /* The other side sends one command and waits for its answer, so one read is one line. */
            ssize_t length = read(0, line, sizeof line - 1);
            if (length <= 0)
                break;
            line[length] = '\0';
            command(line);
        }
    }
    umount2(argv[2], MNT_DETACH);
    return 0;
}
