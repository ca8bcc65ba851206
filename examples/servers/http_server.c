/* A server in C on the master's socket: one thread a connection, one answer a connection, READY=1 when it serves, a
   word on each answer.
   On SIGTERM it accepts nobody any more and leaves when every thread is done. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

static volatile sig_atomic_t retiring;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t idle = PTHREAD_COND_INITIALIZER;
static int busy;

static void retire(int number) { (void)number; retiring = 1; }

static double now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

static void say(const char *words)
{
    struct sockaddr_un master = {.sun_family = AF_UNIX};
    const char *path = getenv("NOTIFY_SOCKET");
    int fd;

    if (path == NULL)
        return;
    strncpy(master.sun_path, path, sizeof master.sun_path - 1);
    fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    /* Whoever has nobody who listens, since the master stands still, must not wait for him. */
    if (sendto(fd, words, strlen(words), MSG_DONTWAIT, (struct sockaddr *)&master, sizeof master) < 0)
        perror("NOTIFY_SOCKET");
    close(fd);
}

static void *answer(void *argument)
{
    int fd = (int)(long)argument;
    char request[4096] = "", text[100], response[300], traffic[100], *slow;
    double begun = now();
    size_t have = 0;
    ssize_t got;

    while (strstr(request, "\r\n\r\n") == NULL && have < sizeof request - 1
           && (got = read(fd, request + have, sizeof request - 1 - have)) > 0)
        request[have += got] = 0;
    if ((slow = strstr(request, "/slow/")) != NULL)
        usleep(1e6 * atof(slow + 6));
    snprintf(text, sizeof text, "%s %d\n", getenv("EINHORNPY_GENERATION"), getpid());
    snprintf(response, sizeof response, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n%s",
             strlen(text), text);
    got = send(fd, response, strlen(response), MSG_NOSIGNAL);
    close(fd);
    /* Status, seconds, bytes of the body; 000 where the client has left. */
    snprintf(traffic, sizeof traffic, "X_EINHORNPY_TRAFFIC=%s:%.6f:%zu", got < 0 ? "000" : "200", now() - begun,
             got < 0 ? 0 : strlen(text));
    say(traffic);
    pthread_mutex_lock(&lock);
    if (--busy == 0)
        pthread_cond_signal(&idle);
    pthread_mutex_unlock(&lock);
    return NULL;
}

int main(void)
{
    struct sigaction action = {.sa_handler = retire};
    struct pollfd listener = {.fd = 3, .events = POLLIN};
    sigset_t blocked, before;
    pthread_t thread;
    int fd;

    /* SIGTERM is let in while we wait, and only there: none is missed. */
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGTERM);
    sigprocmask(SIG_BLOCK, &blocked, &before);
    sigaction(SIGTERM, &action, NULL);
    fcntl(3, F_SETFL, fcntl(3, F_GETFL) | O_NONBLOCK); /* another worker may be faster */
    say("READY=1");
    while (!retiring) {
        if (ppoll(&listener, 1, NULL, &before) < 1 || (fd = accept4(3, NULL, NULL, SOCK_CLOEXEC)) < 0)
            continue;
        pthread_mutex_lock(&lock);
        busy++;
        pthread_mutex_unlock(&lock);
        if (pthread_create(&thread, NULL, answer, (void *)(long)fd) == 0)
            pthread_detach(thread);
        else
            answer((void *)(long)fd);
    }
    pthread_mutex_lock(&lock);
    while (busy > 0)
        pthread_cond_wait(&idle, &lock);
    return 0;
}
