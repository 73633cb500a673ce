//! When a log has come to its end.

use tokio::sync::watch;

use crate::pod::{ContainerState, PodStatus};

/// Waits until a container prints nothing any more, for good: it has ended and is not started again, or its pod is gone.
/// All that it printed is in its log then. Returns why, for people. Cancel safe.
pub async fn end(mut status: watch::Receiver<PodStatus>, pod: &str, container: &str) -> String {
    let ended = status.wait_for(|status| why(status, pod, container).is_some()).await;
    // Nobody can change it any more, if the sender is gone: so is the pod.
    let last = ended.ok().and_then(|status| why(&status, pod, container));
    last.unwrap_or_else(|| format!("pod {pod} is gone"))
}

/// Why a container prints nothing any more, if so.
fn why(status: &PodStatus, pod: &str, container: &str) -> Option<String> {
    let state = status.containers.iter().find(|one| one.name == container);
    match state.map(|one| &one.state) {
        Some(ContainerState::Terminated(last)) if !status.ending => {
            let code = last.exit_code;
            Some(format!(
                "container {container} of pod {pod} has ended with exit code {code}"
            ))
        }
        Some(ContainerState::Terminated(_)) | None => Some(format!("pod {pod} has ended")),
        Some(_) => status.ended.then(|| format!("pod {pod} has ended")),
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};
    use std::time::SystemTime;

    use super::*;
    use crate::pod::{ContainerStatus, Kind, Terminated};

    fn ended(exit_code: i32) -> ContainerState {
        ContainerState::Terminated(Terminated {
            exit_code,
            signal: None,
            reason: "Error",
            message: String::new(),
            started: SystemTime::UNIX_EPOCH,
            finished: SystemTime::UNIX_EPOCH,
        })
    }

    fn pod(state: ContainerState) -> PodStatus {
        let web = ContainerStatus {
            name: "web".to_owned(),
            kind: Kind::Main,
            state,
            last: None,
            ready: false,
            started: false,
            restarts: 0,
            probe_failure: None,
        };
        PodStatus {
            containers: vec![web],
            ..PodStatus::default()
        }
    }

    fn waiting() -> ContainerState {
        ContainerState::Waiting {
            reason: "CrashLoopBackOff",
            message: String::new(),
        }
    }

    #[test]
    fn a_container_that_is_started_again_has_not_said_its_last_word() {
        let status = watch::Sender::new(pod(waiting()));
        let mut follower = pin!(end(status.subscribe(), "shop/web", "web"));
        let mut look = || follower.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(look().is_pending());
        status.send_modify(|pod| pod.ending = true);
        assert!(look().is_pending(), "its pod is still ending");
        status.send_modify(|pod| pod.ended = true);
        assert_eq!(look(), Poll::Ready("pod shop/web has ended".to_owned()));
    }

    #[tokio::test]
    async fn a_container_that_has_ended_for_good_has_said_all() {
        let mut done = pod(ended(3));
        let said = async |status| {
            let (sender, receiver) = watch::channel(status);
            drop(sender);
            end(receiver, "shop/web", "web").await
        };
        assert_eq!(
            said(done.clone()).await,
            "container web of pod shop/web has ended with exit code 3"
        );
        done.ending = true;
        assert_eq!(said(done).await, "pod shop/web has ended");
        assert_eq!(
            said(pod(waiting())).await,
            "pod shop/web is gone",
            "nobody knows of it any more"
        );
    }
}
