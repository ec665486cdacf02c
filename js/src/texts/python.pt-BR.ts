// What Python says in English, in Brazilian Portuguese: a sentence for each code. A part in brackets is left out where
// one of its values is unknown. `{english}` is Python's own sentence, for what only it can tell.

import type { PythonTexts } from "./language";

export const PYTHON_PT_BR: PythonTexts = {
  errors: {
    ambiguous_variant: "Mais de uma variante tem esse nome. Escolha uma das opções.",
    cancelled: "O download foi cancelado. Inicie-o de novo se ainda o quiser.",
    chat_template: "O template de chat do modelo está com defeito. Passe chat_format= ao carregar o modelo.",
    cluster: "O cluster Dask não pode fazer isso. A mensagem em Python diz o que falta em quais workers.",
    content_changed: "O arquivo mudou no Hub desde o início do download. Abra os arquivos de novo e recomece.",
    disk_full: "Não há espaço suficiente no disco do cache. Libere espaço ou mude HF_HUB_CACHE, e tente de novo.",
    does_not_fit: "O modelo precisa de mais memória do que há livre. Escolha uma variante ou um contexto menor.",
    engine_lost: "O processo de downloads não responde. Execute modeldeck engine stop e tente de novo.",
    error: "Ocorreu um erro.",
    file_not_found: "O arquivo não foi encontrado no repositório nem nesta máquina. Abra os arquivos de novo.",
    gated:
      "O acesso a este modelo é restrito. Entre com a sua conta, aceite a licença na página dele e, se for preciso, aguarde a aprovação do autor.",
    generation_cancelled: "A geração foi interrompida. O modelo pode ser usado de novo.",
    hub: "O Hub recusou a requisição.",
    integrity:
      "O arquivo não é o que o Hub lista e não pôde ser corrigido agora. Tente de novo; se persistir, há defeito no servidor ou no disco.",
    invalid_request: "Não é possível atender à solicitação.",
    llama_crashed:
      "O llama.cpp sofreu um erro interno. Carregue o modelo de novo; a memória volta ao reiniciar o kernel.",
    llama_installing:
      "O llama-cpp-python está sendo instalado[: falta cerca de {remaining_seconds}]. Depois disso, os modelos podem ser carregados sem reiniciar o kernel.",
    llama_missing:
      'Falta o llama-cpp-python, ou ele não pode ser importado. Instale-o com pip install "modeldeck[llama]" e reinicie o kernel.',
    load_cancelled: "O carregamento foi cancelado e a memória foi liberada.",
    load_failed: "O llama.cpp não conseguiu carregar o modelo.",
    lock: "O arquivo modeldeck.lock não pode ser usado, ou o que ele exige não está aqui. Execute modeldeck sync.",
    model_unloaded: "O modelo foi descarregado. Carregue-o de novo.",
    network: "Não foi possível acessar o servidor, ou a conexão caiu. O que já foi recebido foi mantido.",
    no_front_end: "Nenhuma página mostra o widget. Mostre-o na última linha de uma célula.",
    not_gguf:
      "O arquivo está danificado ou não é um GGUF que o llama.cpp possa ler. Repare-o se ele está nesta máquina; se não, escolha outra variante.",
    offline: "Sem conexão com o servidor. Verifique a rede ou o endpoint e tente de novo.",
    peers_lost: "Nenhum outro host pode mais enviar o arquivo. Tente de novo; o que já foi recebido foi mantido.",
    permission_denied: "O sistema não permite ler ou gravar no cache. Peça acesso ou mude HF_HUB_CACHE.",
    prompt_killed_worker: "Um prompt encerrou o processo do seu worker duas vezes. Deixe-o de fora ou encurte-o.",
    protocol: "Duas partes do modeldeck não se entendem. Reinicie o kernel e execute modeldeck engine stop.",
    proxy:
      "O proxy recusou a requisição, ou a configuração dele não pode ser usada. Verifique HTTPS_PROXY e NO_PROXY; se as mudar, execute depois modeldeck engine stop.",
    rate_limited:
      "O Hub recebeu requisições demais. Aguarde[ {retry_after_seconds}] e tente de novo; com um token, o limite é maior.",
    repo_not_found: "O Hub não tem um repositório com esse nome, ou este token não pode vê-lo. Confira o nome.",
    revision_not_found: "O repositório não tem essa branch, tag ou commit. Use main.",
    server_error: "O servidor falhou ou deu uma resposta inesperada[ (HTTP {status_code})]. Tente mais tarde.",
    stalled: "O servidor parou de enviar dados. O download continua do último byte quando você tentar de novo.",
    storage: "O disco do cache não pôde ser lido ou gravado. Verifique se está montado e tente de novo.",
    timeout: "O servidor não respondeu a tempo. Verifique a conexão e tente de novo.",
    tls: "A conexão segura falhou, em geral por causa do certificado. Verifique o relógio e SSL_CERT_FILE; se a mudar, execute depois modeldeck engine stop.",
    unauthorized: "O Hub não aceitou o token ou exige um. Entre com hf auth login ou defina HF_TOKEN.",
    workers_lost: "Todos os workers que tinham o modelo saíram do cluster. Inicie outros e tente de novo.",
  },
  fits: {
    beyond_training: "O modelo foi treinado com {trained_n_ctx} tokens. Com mais, as respostas pioram.",
    damaged:
      "O arquivo está danificado, incompleto ou não é um GGUF que o llama.cpp possa ler. Escolha outra variante ou avise o autor.",
    memory_unknown: "Não foi possível ler a memória desta máquina.",
    on_cpu: "Grande demais para a GPU; roda na CPU.",
    partly_on_gpu: "Cabe em parte: {n_gpu_layers} das camadas na GPU, o resto na CPU.",
    refused: "O llama.cpp não consegue carregar este modelo aqui: {english}",
    size_unknown: "O tamanho do arquivo é desconhecido.",
    too_large: "Precisa de mais memória do que há livre nesta máquina.",
  },
  reasons: {
    best_that_fits: "A melhor qualidade que cabe na memória desta máquina.",
    fastest:
      "Nenhuma variante responde em ritmo de leitura ({pace} tokens/s) nesta máquina. Esta é a mais rápida de boa qualidade[: {speed}].",
    only_unquantized: "Nenhuma variante quantizada cabe ou existe; esta é a única opção.",
    partial: "Nenhuma variante cabe inteira na GPU. Esta é um bom meio-termo e roda em parte na CPU.",
    reading_pace: "A melhor qualidade que ainda responde em ritmo de leitura nesta máquina[: {speed}].",
    slow: "Nenhuma variante responde em ritmo de leitura ({pace} tokens/s) nesta máquina. Esta é a de melhor qualidade que cabe[: {speed}].",
    small_model: "O modelo é pequeno o bastante para rodar sem quantização[: {speed}].",
    unknown: "Não se sabe quais variantes cabem. Esta é um bom meio-termo entre tamanho e qualidade.",
  },
  notices: {
    account_argument: "O token foi passado ao modeldeck no argumento token=.",
    account_colab: "O token é o secret HF_TOKEN do Colab.",
    account_endpoint: "O usuário e a senha são os do endereço do endpoint.",
    account_environment: "O token foi encontrado no ambiente (HF_TOKEN).",
    account_file: "O token foi encontrado no arquivo que o hf auth login grava.",
    account_name: "O token em uso pertence a {name}.",
    account_none:
      "Nenhum token está em uso. Modelos abertos não precisam de um. Para usar um, crie-o nas configurações do Hub, execute hf auth login em um terminal e execute esta célula de novo.",
    account_reads_gated: "Ele pode ler modelos restritos aos quais a sua conta tem acesso.",
    account_reads_no_gated:
      "É um token fine-grained que não pode ler modelos restritos. Permita isso nas configurações dele no Hub.",
    download_shared:
      "Outro notebook também quer este arquivo, por isso o download continua. Cancele de novo para parar os dois.",
    engine_inline: "Os downloads rodam dentro deste kernel: terminam com ele, e uma célula ocupada os atrasa.",
    engine_lost: "O processo de downloads terminou e não pôde ser reiniciado.",
    engine_restarted: "O processo de downloads terminou inesperadamente e foi reiniciado. Os downloads continuam.",
    engine_stopped: "O processo de downloads foi parado. Ele volta com a próxima solicitação.",
    gated_accept: "Aceite as condições na página do modelo.",
    gated_granted: "Sua conta tem acesso a este modelo restrito.",
    gated_log_in:
      "Entre: crie um token nas configurações do Hub, execute hf auth login em um terminal e execute esta célula de novo.",
    gated_other_token: "Entre com outro token: o que está em uso não pode ler modelos restritos.",
    gated_wait: "Aguarde a aprovação do autor.",
    gpu_cpu_build: "Há uma GPU, mas o llama-cpp-python instalado é uma versão para CPU. Instale uma versão para GPU.",
    gpu_without_llama: "Há uma GPU. Para usá-la, instale uma versão do llama-cpp-python para GPU.",
    without_projector: "Carregado sem o projetor de visão, apenas para texto.",
  },
  toasts: {
    damaged: "{name} está danificado. Repare-o para baixar de novo as partes danificadas.",
    download_failed: "Falha em {name}. {error}", // a repair, too
    downloaded: "{name} foi baixado e verificado.",
    load_failed: "Não foi possível carregar {name}. {error}",
    loaded: "{name} está carregado: use browser.llm.",
    repaired: "{name} foi reparado.",
    uncompared: "{name} foi lido, mas o Hub não informa um SHA-256 para comparar.",
    verified: "{name} é exatamente o que está no Hub.",
    verified_several: "{models} modelos são exatamente o que está no Hub.",
  },
};
