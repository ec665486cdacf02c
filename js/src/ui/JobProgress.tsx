import { describeJob } from "../describe";
import type { JobView } from "../wire";
import { useLanguage } from "./language";
import { Progress } from "./Progress";

/** The bar of a download and the line under it. */
export function JobProgress({ job, name }: { job: JobView; name: string }) {
  const language = useLanguage();
  const { t } = language;
  const parts = describeJob(job, language);
  return (
    <div>
      <Progress
        label={t(job.purpose === "repair" ? "repairOf" : "downloadOf", { name })}
        percent={job.percent}
        text={parts.join(", ")}
      />
      <p class="line small">
        {job.percent === null ? null : <span class="percent">{t("percent", { percent: job.percent })}</span>}
        {parts.map((part, index) => (
          <span key={index}>{part}</span>
        ))}
      </p>
      {job.notice ? <p class="fair">{language.said("notices", job.notice_code, job.notice)}</p> : null}
    </div>
  );
}
